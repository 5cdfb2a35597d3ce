#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// d * q + m. Stored: float16 d, m, 4 bytes of the q's fifth bits, 16 bytes of two q.
struct Q5_1 {
  static constexpr DType kDType = DType::kQ5_1;
  static constexpr int kOffset = 0;
  static constexpr int kHalves = 1;
  static constexpr bool kMins = true;
  static constexpr bool kSmall = true;
  static constexpr int kScalesAt = kNibblePlane + kOneBitPlane;
  static constexpr int kUnitBytes = kScalesAt + 4 * kPanelRows;
  static constexpr int kHeaderBytes = 0;

  static void Pack(const std::byte* stored, int, int lane, std::byte* unit, std::byte*) {
    PutNibbles(unit, lane, stored + 8);
    PutBits(unit + kNibblePlane, lane, LoadWord(stored + 4));
    PutHalf(unit + kScalesAt, lane, stored);
    PutHalf(unit + kScalesAt + 2 * kPanelRows, lane, stored + 2);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetNibbles<P>(unit, lane, q);
    AddBit<P>(unit + kNibblePlane, lane, 16, q);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetScales(const std::byte* unit, const std::byte*, int lane,
                                            typename P::V* scales, typename P::V* mins) {
    scales[0] = GetHalves<P>(unit + kScalesAt, lane);
    mins[0] = P::Sub(P::Zero(), GetHalves<P>(unit + kScalesAt + 2 * kPanelRows, lane));
  }
};

}  // namespace trireme::quant
