#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// d * q, q from -128 to 127. Stored: float16 d, 32 bytes q.
struct Q8_0 {
  static constexpr DType kDType = DType::kQ8_0;
  static constexpr int kOffset = 128;
  static constexpr int kHalves = 1;
  static constexpr bool kMins = false;
  static constexpr bool kSmall = false;
  static constexpr int kUnitBytes = kBytePlane + 2 * kPanelRows;
  static constexpr int kHeaderBytes = 0;
  static constexpr uint32_t kSigns = 0x80808080;  // of bytes: adds 128 to each

  static void Pack(const std::byte* stored, int, int lane, std::byte* unit, std::byte*) {
    for (int i = 0; i < kQuads; ++i) {
      StoreWord(unit + i * 64 + lane * 4, LoadWord(stored + 2 + 4 * i) ^ kSigns);
    }
    PutHalf(unit + kBytePlane, lane, stored);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetBytes<P>(unit, lane, q);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetScales(const std::byte* unit, const std::byte*, int lane,
                                            typename P::V* scales, typename P::V*) {
    scales[0] = GetHalves<P>(unit + kBytePlane, lane);
  }
};

}  // namespace trireme::quant
