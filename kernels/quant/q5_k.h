#pragma once

#include "kernels/quant/k_scales.h"

namespace trireme::quant {

// As Q4_K with a fifth bit: 32 bytes between scales and q, bit b of byte c that of block b, column
// c.
struct Q5K {
  static constexpr DType kDType = DType::kQ5K;
  static constexpr int kOffset = 0;
  static constexpr int kHalves = 1;
  static constexpr bool kMins = true;
  static constexpr bool kSmall = true;
  static constexpr int kScalesAt = kNibblePlane + kOneBitPlane;
  static constexpr int kUnitBytes = kScalesAt + 2 * kPanelRows;
  static constexpr int kHeaderBytes = 4 * kPanelRows;

  static void Pack(const std::byte* stored, int block, int lane, std::byte* unit,
                   std::byte* header) {
    uint32_t bits = 0;
    for (int c = 0; c < kBlockColumns; ++c) {
      bits |= ((static_cast<uint32_t>(stored[16 + c]) >> block) & 1u) << c;
    }
    PutNibblesOf(unit, lane, stored + 48 + block / 2 * 32, block % 2 * 4);
    PutBits(unit + kNibblePlane, lane, bits);
    PutSubScales(unit + kScalesAt, lane, SixBitScales(stored + 4, block));
    PutDAndDmin(header, lane, stored);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetNibbles<P>(unit, lane, q);
    AddBit<P>(unit + kNibblePlane, lane, 16, q);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetScales(const std::byte* unit, const std::byte* header,
                                            int lane, typename P::V* scales, typename P::V* mins) {
    GetSubScales<P>(unit + kScalesAt, header, lane, scales, mins);
  }
};

}  // namespace trireme::quant
