#pragma once

// Functions of the hardware; the tests' emulation has a header of this name.

namespace trireme::cuda {

// 2^x, to about two units in the last place; 0 for -infinity, 1 for 0.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace trireme::cuda
