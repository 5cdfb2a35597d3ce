#pragma once

#include "kernels/quant/k_scales.h"

namespace trireme::quant {

// d * scale * q - dmin * min, for each 32 columns. Stored: float16 d, dmin, 12 bytes of scales and
// mins, 128 bytes of q: the blocks 2i and 2i + 1 in the halves of 32 bytes.
struct Q4K {
  static constexpr DType kDType = DType::kQ4K;
  static constexpr int kOffset = 0;
  static constexpr int kHalves = 1;
  static constexpr bool kMins = true;
  static constexpr bool kSmall = true;
  static constexpr int kUnitBytes = kNibblePlane + 2 * kPanelRows;
  static constexpr int kHeaderBytes = 4 * kPanelRows;

  static void Pack(const std::byte* stored, int block, int lane, std::byte* unit,
                   std::byte* header) {
    PutNibblesOf(unit, lane, stored + 16 + block / 2 * 32, block % 2 * 4);
    PutSubScales(unit + kNibblePlane, lane, SixBitScales(stored + 4, block));
    PutDAndDmin(header, lane, stored);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetNibbles<P>(unit, lane, q);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetScales(const std::byte* unit, const std::byte* header,
                                            int lane, typename P::V* scales, typename P::V* mins) {
    GetSubScales<P>(unit + kNibblePlane, header, lane, scales, mins);
  }
};

}  // namespace trireme::quant
