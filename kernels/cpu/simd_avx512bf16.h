#pragma once

#include "kernels/cpu/simd_avx512vnni.h"

namespace trireme {

// SimdAvx512Vnni with the dot products of AVX-512 BF16.
struct SimdAvx512Bf16 : SimdAvx512Vnni {
  using Part = SimdAvx512Bf16;
  static constexpr const char* kName = "avx512bf16";
  // With two panels 16 sums: batches are often multiples of eight.
  static constexpr int kBf16Tokens = 8;

  using Bf16Pairs = __m512i;
  static Bf16Pairs LoadBf16Pairs(const std::byte* p) { return LoadBytes(p); }
  static Bf16Pairs BroadcastBf16Pair(uint32_t pair) {
    return _mm512_set1_epi32(static_cast<int>(pair));
  }
  static V DotBf16(V sum, Bf16Pairs a, Bf16Pairs b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

}  // namespace trireme
