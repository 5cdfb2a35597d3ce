#pragma once

#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace trireme::cuda {

// 2^x, to about two units in the last place; 0 for -infinity, 1 for 0.
__device__ inline float Exp2(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

// A pair as a matrix operand's register, the first in the lower half.
__device__ inline uint32_t PairBits(const __nv_bfloat162& pair) {
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}
__device__ inline __nv_bfloat162 PairOfBits(uint32_t bits) {
  __nv_bfloat162 pair;
  memcpy(&pair, &bits, sizeof(bits));
  return pair;
}

// Rounded to nearest, ties to even.
__device__ inline uint32_t PackBf16(float low, float high) {
  return PairBits(__floats2bfloat162_rn(low, high));
}

// The int8 in the lower bytes of two halves as bfloat16, exactly. Below the exponent of 128, seven
// bits are a bfloat16 of 128 + them; the eighth, the sign, has 256 subtracted instead of 128.
__device__ inline uint32_t Int8PairToBf16(uint32_t halves) {
  const uint32_t low = (halves & 0x007f007f) | 0x43004300;
  const uint32_t base = (halves & 0x00800080) | 0x43004300;
  return PairBits(__hsub2(PairOfBits(low), PairOfBits(base)));
}

}  // namespace trireme::cuda
