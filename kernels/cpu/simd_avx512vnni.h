#pragma once

#include "kernels/cpu/simd_avx512.h"

namespace trireme {

// SimdAvx512 with the integer dot products of AVX-512 VNNI.
struct SimdAvx512Vnni : SimdAvx512 {
  using Part = SimdAvx512Vnni;
  static constexpr const char* kName = "avx512vnni";
  // Beside the weights of two panels.
  static constexpr int kQuantSums = 8;
  static constexpr int kQuantPanels = 2;

  template <bool small>
  static Ints Dot(Ints sum, Bytes u, Bytes s) {
    return _mm512_dpbusd_epi32(sum, u, s);
  }
};

}  // namespace trireme
