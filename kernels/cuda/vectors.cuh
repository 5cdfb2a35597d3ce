#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace trireme::cuda {

__device__ __forceinline__ float Widen(float x) { return x; }
__device__ __forceinline__ float Widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float Widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// Four neighbouring elements as floats: 16 bytes of float32, 8 of the others, aligned to that.
__device__ __forceinline__ float4 LoadFour(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ float4 LoadFour(const __half* p) {
  const uint2 bits = *reinterpret_cast<const uint2*>(p);
  const auto widen = [](uint32_t x) { return Widen(__ushort_as_half(static_cast<uint16_t>(x))); };
  return make_float4(widen(bits.x), widen(bits.x >> 16), widen(bits.y), widen(bits.y >> 16));
}
__device__ __forceinline__ float4 LoadFour(const __nv_bfloat16* p) {
  const uint2 bits = *reinterpret_cast<const uint2*>(p);
  const auto widen = [](uint32_t x) { return __uint_as_float(x & 0xffff0000u); };
  return make_float4(widen(bits.x << 16), widen(bits.x), widen(bits.y << 16), widen(bits.y));
}
__device__ __forceinline__ void StoreFour(float* p, float4 four) {
  *reinterpret_cast<float4*>(p) = four;
}

template <class F>
__device__ __forceinline__ float4 MapFour(float4 a, const F& f) {
  return make_float4(f(a.x), f(a.y), f(a.z), f(a.w));
}
template <class F>
__device__ __forceinline__ float4 MapFour(float4 a, float4 b, const F& f) {
  return make_float4(f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w));
}

// The unit that this thread of a one-dimensional grid has.
__device__ __forceinline__ int64_t GlobalThread() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

}  // namespace trireme::cuda
