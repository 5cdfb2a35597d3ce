#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/bfloat16.h"
#include "kernels/kv_layer.h"

namespace trireme::cpu {

// Plain C++ for every instruction set: a step stores few values beside what it computes.

// Writes x / scale, rounded to nearest, ties to even, to each `step`-th of out; returns scale =
// max |x| / 127. A NaN counts as zero.
inline float QuantizeInt8(const float* x, int64_t n, int8_t* out, int64_t step) {
  float largest = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float magnitude = std::abs(x[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  const float scale = largest / 127.0f;
  // A scale that is denormal has few bits, hence the cut; zero and infinity would divide to NaN.
  const float divisor = scale > 0.0f ? scale : 1.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float value = x[i] / divisor;
    const float low = value > -127.0f ? value : -127.0f;
    const float cut = low < 127.0f ? low : 127.0f;
    // Adding 1.5 * 2^23 leaves no fraction bits, so the sum is rounded to an integer.
    constexpr float kRound = 12582912.0f;
    out[i * step] = static_cast<int8_t>(value == value ? cut + kRound - kRound : 0.0f);
  }
  return scale;
}

// Stores x, head_dim floats, as the elements `first`, `first + step`, ... of a head's part of a
// page, for the token in `slot`.
inline void StoreKvRow(const KvLayer& cache, const float* x, std::byte* head, int64_t slot,
                       int64_t first, int64_t step) {
  const int64_t n = cache.head_dim;
  switch (cache.dtype) {
    case KvDType::kF32: {
      auto* to = reinterpret_cast<float*>(head) + first;
      for (int64_t i = 0; i < n; ++i) to[i * step] = x[i];
      return;
    }
    case KvDType::kBF16: {
      auto* to = reinterpret_cast<uint16_t*>(head) + first;
      for (int64_t i = 0; i < n; ++i) to[i * step] = RoundToBf16(x[i]);
      return;
    }
    case KvDType::kInt8: {
      auto* scales = reinterpret_cast<float*>(head + cache.block_size * n);
      scales[slot] = QuantizeInt8(x, n, reinterpret_cast<int8_t*>(head) + first, step);
      return;
    }
  }
}

// One token's key, or value, in `slot` of a head's part of a page.
inline void StoreKey(const KvLayer& cache, const float* x, std::byte* head, int64_t slot) {
  const int64_t in_group = slot % kKeyGroup;
  StoreKvRow(cache, x, head, slot, (slot - in_group) * cache.head_dim + in_group, kKeyGroup);
}
inline void StoreValue(const KvLayer& cache, const float* x, std::byte* head, int64_t slot) {
  StoreKvRow(cache, x, head, slot, slot * cache.head_dim, 1);
}

}  // namespace trireme::cpu
