#pragma once

#include "kernels/quant/format.h"
#include "kernels/quant/q4_0.h"

namespace trireme::quant {

// d * value[q] with sixteen values that are closer together near zero. Stored as Q4_0.
struct IQ4NL : Q4_0 {
  static constexpr DType kDType = DType::kIQ4NL;
  static constexpr int kOffset = 128;
  static constexpr bool kSmall = false;
  // The format's values, plus 128: -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69,
  // 89, 113.
  static constexpr uint8_t kValues[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                          129, 141, 153, 166, 181, 197, 217, 241};

  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetNibbles<P>(unit, lane, q);
    for (int i = 0; i < kQuads; i += kQuadStep<P>) q[i] = P::template Lookup<kValues>(q[i]);
  }
};

}  // namespace trireme::quant
