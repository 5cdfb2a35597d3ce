#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// d * scale * q - dmin * min, for each 16 columns. Stored: 16 bytes of scale (low nibble) and min,
// 64 bytes of q (four blocks in the pairs of bits of 32 bytes), float16 d, dmin.
struct Q2K {
  static constexpr DType kDType = DType::kQ2K;
  static constexpr int kOffset = 0;
  static constexpr int kHalves = 2;
  static constexpr bool kMins = true;
  static constexpr bool kSmall = true;
  static constexpr int kScalesAt = kTwoBitPlane;
  static constexpr int kUnitBytes = kScalesAt + 4 * kPanelRows;
  static constexpr int kHeaderBytes = 4 * kPanelRows;

  static void Pack(const std::byte* stored, int block, int lane, std::byte* unit,
                   std::byte* header) {
    PutTwoBitsOf(unit, lane, stored + 16 + block / 4 * 32, block % 4 * 2);
    std::byte* ints = unit + kScalesAt + lane;
    for (int half = 0; half < 2; ++half) {
      const std::byte both = stored[2 * block + half];
      ints[half * kPanelRows] = both & std::byte{15};
      ints[(2 + half) * kPanelRows] = both >> 4;
    }
    PutHalf(header, lane, stored + 80);
    PutHalf(header + 2 * kPanelRows, lane, stored + 82);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetTwoBits<P>(unit, lane, q);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetScales(const std::byte* unit, const std::byte* header,
                                            int lane, typename P::V* scales, typename P::V* mins) {
    const typename P::V d = GetHalves<P>(header, lane);
    const typename P::V dmin = GetHalves<P>(header + 2 * kPanelRows, lane);
    for (int half = 0; half < 2; ++half) {
      const std::byte* ints = unit + kScalesAt + half * kPanelRows;
      scales[half] = P::Mul(d, GetInts<P>(ints, lane));
      mins[half] = P::Mul(dmin, GetInts<P>(ints + 2 * kPanelRows, lane));
    }
  }
};

}  // namespace trireme::quant
