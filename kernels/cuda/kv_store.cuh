#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/vectors.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/kv_layer.h"

namespace trireme::cuda {

// x / scale, rounded to nearest, ties to even, between -127 and 127; a NaN counts as zero. The bits
// of the CPU's cpu::QuantizeInt8, which says why.
__device__ __forceinline__ int8_t QuantizeInt8(float x, float scale) {
  const float value = __fdiv_rn(x, scale > 0.0f ? scale : 1.0f);
  const float low = value > -127.0f ? value : -127.0f;
  const float cut = low < 127.0f ? low : 127.0f;
  return static_cast<int8_t>(value == value ? __float2int_rn(cut) : 0);
}

// Stores a head's row for the token in `slot` of a page, by a warp: element d goes to `first + d *
// step` of `head`, the head's part of the page. visit(i, take) calls take(d, value) for two
// elements; i runs to head_dim / 2.
template <class Visit>
__device__ __forceinline__ void StoreKvRow(const KvLayer& cache, std::byte* head, int64_t slot,
                                           int64_t first, int64_t step, const Visit& visit) {
  const auto each = [&](auto&& take) {
    for (int64_t i = threadIdx.x % kWarpLanes; i < cache.head_dim / 2; i += kWarpLanes) {
      visit(i, take);
    }
  };
  switch (cache.dtype) {
    case KvDType::kF32: {
      float* to = reinterpret_cast<float*>(head) + first;
      each([&](int64_t d, float x) { to[d * step] = x; });
      return;
    }
    case KvDType::kBF16: {
      auto* to = reinterpret_cast<__nv_bfloat16*>(head) + first;
      each([&](int64_t d, float x) { to[d * step] = __float2bfloat16_rn(x); });
      return;
    }
    case KvDType::kInt8: {
      float largest = 0.0f;
      each([&](int64_t, float x) {
        const float magnitude = fabsf(x);
        largest = magnitude > largest ? magnitude : largest;
      });
      const float scale = __fdiv_rn(WarpMax(largest), 127.0f);
      auto* to = reinterpret_cast<int8_t*>(head) + first;
      each([&](int64_t d, float x) { to[d * step] = QuantizeInt8(x, scale); });
      if (threadIdx.x % kWarpLanes == 0) {
        reinterpret_cast<float*>(head + cache.block_size * cache.head_dim)[slot] = scale;
      }
      return;
    }
  }
}

}  // namespace trireme::cuda
