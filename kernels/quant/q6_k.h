#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// d * scale * (q - 32), a signed scale for each 16 columns. Stored: 128 bytes of the q's low four
// bits, 64 of their upper two, 16 scales, float16 d. Of each 128 columns, the four blocks lie in
// the halves of twice 32 low bytes and in pairs of bits of 32 upper ones.
struct Q6K {
  static constexpr DType kDType = DType::kQ6K;
  static constexpr int kOffset = 32;
  static constexpr int kHalves = 2;
  static constexpr bool kMins = false;
  static constexpr bool kSmall = true;
  static constexpr int kScalesAt = kNibblePlane + kTwoBitPlane;
  static constexpr int kUnitBytes = kScalesAt + 2 * kPanelRows;
  static constexpr int kHeaderBytes = 2 * kPanelRows;

  static void Pack(const std::byte* stored, int block, int lane, std::byte* unit,
                   std::byte* header) {
    const int quarter = block % 4;
    PutNibblesOf(unit, lane, stored + block / 4 * 64 + quarter % 2 * 32, quarter / 2 * 4);
    PutTwoBitsOf(unit + kNibblePlane, lane, stored + 128 + block / 4 * 32, 2 * quarter);
    unit[kScalesAt + lane] = stored[192 + 2 * block];
    unit[kScalesAt + kPanelRows + lane] = stored[192 + 2 * block + 1];
    PutHalf(header, lane, stored + 208);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetNibbles<P>(unit, lane, q);
    AddTwoBits<P>(unit + kNibblePlane, lane, q);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetScales(const std::byte* unit, const std::byte* header,
                                            int lane, typename P::V* scales, typename P::V*) {
    const typename P::V d = GetHalves<P>(header, lane);
    scales[0] = P::Mul(d, GetInts<P>(unit + kScalesAt, lane));
    scales[1] = P::Mul(d, GetInts<P>(unit + kScalesAt + kPanelRows, lane));
  }
};

}  // namespace trireme::quant
