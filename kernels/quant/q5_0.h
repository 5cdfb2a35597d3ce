#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// d * (q - 16). Stored: float16 d, 4 bytes of the q's fifth bits, 16 bytes of two q.
struct Q5_0 {
  static constexpr DType kDType = DType::kQ5_0;
  static constexpr int kOffset = 16;
  static constexpr int kHalves = 1;
  static constexpr bool kMins = false;
  static constexpr bool kSmall = true;
  static constexpr int kScalesAt = kNibblePlane + kOneBitPlane;
  static constexpr int kUnitBytes = kScalesAt + 2 * kPanelRows;
  static constexpr int kHeaderBytes = 0;

  static void Pack(const std::byte* stored, int, int lane, std::byte* unit, std::byte*) {
    PutNibbles(unit, lane, stored + 6);
    PutBits(unit + kNibblePlane, lane, LoadWord(stored + 2));
    PutHalf(unit + kScalesAt, lane, stored);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetNibbles<P>(unit, lane, q);
    AddBit<P>(unit + kNibblePlane, lane, 16, q);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetScales(const std::byte* unit, const std::byte*, int lane,
                                            typename P::V* scales, typename P::V*) {
    scales[0] = GetHalves<P>(unit + kScalesAt, lane);
  }
};

}  // namespace trireme::quant
