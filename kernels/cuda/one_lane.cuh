#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/bf16_pairs.cuh"
#include "kernels/host_device.h"

namespace trireme::cuda {

// The vector type with which the formats of kernels/quant read panels on a GPU: one row a thread.
struct OneLane {
  static constexpr int kLanes = 1;
  using V = float;
  using Bytes = uint32_t;  // four columns

  TRIREME_HOST_DEVICE static V Zero() { return 0.0f; }
  TRIREME_HOST_DEVICE static V Load(const float* p) { return *p; }
  TRIREME_HOST_DEVICE static V LoadF16(const uint16_t* p) {
    return __half2float(*reinterpret_cast<const __half*>(p));
  }
  TRIREME_HOST_DEVICE static V LoadInt8(const int8_t* p) { return static_cast<float>(*p); }
  TRIREME_HOST_DEVICE static V Sub(V a, V b) { return a - b; }
  TRIREME_HOST_DEVICE static V Mul(V a, V b) { return a * b; }

  TRIREME_HOST_DEVICE static Bytes LoadBytes(const std::byte* p) {
    return *reinterpret_cast<const uint32_t*>(p);
  }
  // Each byte shifted right by `shift` (left if negative), and `mask` of it, which keeps nothing of
  // its neighbour.
  template <int shift>
  TRIREME_HOST_DEVICE static Bytes BitsFrom(Bytes a, uint8_t mask) {
    const Bytes shifted = shift >= 0 ? a >> (shift & 7) : a << (-shift & 7);
    return shifted & (mask * 0x01010101u);
  }
  TRIREME_HOST_DEVICE static Bytes Or(Bytes a, Bytes b) { return a | b; }
  // a, with the bits of `value`, which it does not have, in byte i where bit i of `bits` is set.
  TRIREME_HOST_DEVICE static Bytes OrWhere(Bytes a, uint32_t bits, uint8_t value) {
    const uint32_t spread = ((bits & 15u) * 0x00204081u) & 0x01010101u;
    return a | spread * value;
  }
  template <const uint8_t (&table)[16]>
  TRIREME_HOST_DEVICE static Bytes Lookup(Bytes index) {
    constexpr uint32_t kWords[4] = {Word(table, 0), Word(table, 4), Word(table, 8),
                                    Word(table, 12)};
    uint32_t found = 0;
    for (int i = 0; i < 4; ++i) {
      const uint32_t at = (index >> (8 * i)) & 15u;
      const uint32_t low = at & 4u ? kWords[1] : kWords[0];
      const uint32_t high = at & 4u ? kWords[3] : kWords[2];
      const uint32_t word = at & 8u ? high : low;
      found |= ((word >> (8 * (at & 3u))) & 255u) << (8 * i);
    }
    return found;
  }

 private:
  TRIREME_HOST_DEVICE static constexpr uint32_t Word(const uint8_t (&table)[16], int at) {
    return uint32_t{table[at]} | uint32_t{table[at + 1]} << 8 | uint32_t{table[at + 2]} << 16 |
           uint32_t{table[at + 3]} << 24;
  }
};

// What a format F's quants, four unsigned bytes, mean before scaling: u - F::kOffset, exactly.
// `even` has the columns 0 and 2, `odd` 1 and 3. A bfloat16 of 128 to 255 has its integer in the
// lowest seven bits; where quants have eight, the last one chooses what is subtracted.
template <class F>
__device__ inline void QuadToPairs(uint32_t quad, uint32_t& even, uint32_t& odd) {
  constexpr uint32_t k128 = 0x43004300;
  const uint32_t bytes[2] = {quad & 0x00ff00ffu, (quad >> 8) & 0x00ff00ffu};
  uint32_t pairs[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if constexpr (F::kSmall) {
      // 128 + offset as bfloat16: offsets are at most 127.
      constexpr uint32_t kBase = 0x4300u + F::kOffset;
      pairs[i] = SubtractPairs(bytes[i] | k128, kBase | kBase << 16);
    } else {
      static_assert(F::kOffset == 128);
      constexpr uint32_t k256 = 0x43804380;
      pairs[i] = SubtractPairs((bytes[i] & 0x007f007fu) | k128, (bytes[i] & 0x00800080u) ^ k256);
    }
  }
  even = pairs[0];
  odd = pairs[1];
}

}  // namespace trireme::cuda
