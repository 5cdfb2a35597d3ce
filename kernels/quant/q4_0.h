#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// d * (q - 8). Stored: float16 d, 16 bytes of two q.
struct Q4_0 {
  static constexpr DType kDType = DType::kQ4_0;
  static constexpr int kOffset = 8;
  static constexpr int kHalves = 1;
  static constexpr bool kMins = false;
  static constexpr bool kSmall = true;
  static constexpr int kUnitBytes = kNibblePlane + 2 * kPanelRows;
  static constexpr int kHeaderBytes = 0;

  static void Pack(const std::byte* stored, int, int lane, std::byte* unit, std::byte*) {
    PutNibbles(unit, lane, stored + 2);
    PutHalf(unit + kNibblePlane, lane, stored);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetNibbles<P>(unit, lane, q);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetScales(const std::byte* unit, const std::byte*, int lane,
                                            typename P::V* scales, typename P::V*) {
    scales[0] = GetHalves<P>(unit + kNibblePlane, lane);
  }
};

}  // namespace trireme::quant
