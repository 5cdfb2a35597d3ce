#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// scale * (q - zero), q from 0 to 15 and zero from 0 to 16: AWQ and GPTQ. Stored: float16 scale, a
// byte zero, 16 bytes of two q, columns 0..15 in the low halves.
struct Int4Zero {
  static constexpr DType kDType = DType::kInt4Zero;
  static constexpr int kOffset = 0;
  static constexpr int kHalves = 1;
  static constexpr bool kMins = true;
  static constexpr bool kSmall = true;
  static constexpr int kUnitBytes = kNibblePlane + 3 * kPanelRows;
  static constexpr int kHeaderBytes = 0;

  static void Pack(const std::byte* stored, int, int lane, std::byte* unit, std::byte*) {
    PutNibbles(unit, lane, stored + 3);
    PutHalf(unit + kNibblePlane, lane, stored);
    unit[kNibblePlane + 2 * kPanelRows + lane] = stored[2];
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetNibbles<P>(unit, lane, q);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetScales(const std::byte* unit, const std::byte*, int lane,
                                            typename P::V* scales, typename P::V* mins) {
    scales[0] = GetHalves<P>(unit + kNibblePlane, lane);
    mins[0] = P::Mul(scales[0], GetInts<P>(unit + kNibblePlane + 2 * kPanelRows, lane));
  }
};

}  // namespace trireme::quant
