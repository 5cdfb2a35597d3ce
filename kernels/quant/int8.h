#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// scale * q, q from -128 to 127: a row of int8 with a scale of its own. Stored: float32 scale, 32
// bytes q.
struct Int8 {
  static constexpr DType kDType = DType::kInt8;
  static constexpr int kOffset = 128;
  static constexpr int kHalves = 1;
  static constexpr bool kMins = false;
  static constexpr bool kSmall = false;
  static constexpr int kUnitBytes = kBytePlane + 4 * kPanelRows;
  static constexpr int kHeaderBytes = 0;

  static void Pack(const std::byte* stored, int, int lane, std::byte* unit, std::byte*) {
    constexpr uint32_t kSigns = 0x80808080;  // of bytes: adds 128 to each
    for (int i = 0; i < kQuads; ++i) {
      StoreWord(unit + i * 64 + lane * 4, LoadWord(stored + 4 + 4 * i) ^ kSigns);
    }
    StoreWord(unit + kBytePlane + lane * 4, LoadWord(stored));
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetBytes<P>(unit, lane, q);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetScales(const std::byte* unit, const std::byte*, int lane,
                                            typename P::V* scales, typename P::V*) {
    scales[0] = P::Load(reinterpret_cast<const float*>(unit + kBytePlane) + lane);
  }
};

}  // namespace trireme::quant
