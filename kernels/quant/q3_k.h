#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// d * (scale - 32) * (q - 4), a scale for each 16 columns. Stored: 32 bytes of the q's third bits
// (bit b of byte c that of block b, column c), 64 bytes of their low two, 12 bytes of sixteen
// six-bit scales, float16 d.
struct Q3K {
  static constexpr DType kDType = DType::kQ3K;
  static constexpr int kOffset = 4;
  static constexpr int kHalves = 2;
  static constexpr bool kMins = false;
  static constexpr bool kSmall = true;
  static constexpr int kBitsAt = kTwoBitPlane;
  static constexpr int kScalesAt = kBitsAt + kOneBitPlane;
  static constexpr int kUnitBytes = kScalesAt + 2 * kPanelRows;
  static constexpr int kHeaderBytes = 2 * kPanelRows;

  // The low four bits of scales 0..7 in the low nibbles of bytes 0..7, of 8..15 in the high ones;
  // the upper two of scale i in bits 2 (i / 4) of byte 8 + i % 4.
  static std::byte Scale(const std::byte* stored, int index) {
    const int low = (static_cast<int>(stored[index % 8]) >> (index / 8 * 4)) & 15;
    const int high = (static_cast<int>(stored[8 + index % 4]) >> (index / 4 * 2)) & 3;
    return static_cast<std::byte>((low | (high << 4)) - 32);
  }
  static void Pack(const std::byte* stored, int block, int lane, std::byte* unit,
                   std::byte* header) {
    uint32_t bits = 0;
    for (int c = 0; c < kBlockColumns; ++c) {
      bits |= ((static_cast<uint32_t>(stored[c]) >> block) & 1u) << c;
    }
    PutTwoBitsOf(unit, lane, stored + 32 + block / 4 * 32, block % 4 * 2);
    PutBits(unit + kBitsAt, lane, bits);
    for (int half = 0; half < 2; ++half) {
      unit[kScalesAt + half * kPanelRows + lane] = Scale(stored + 96, 2 * block + half);
    }
    PutHalf(header, lane, stored + 108);
  }
  template <class P>
  TRIREME_HOST_DEVICE static void GetQuads(const std::byte* unit, int lane, Quads<P>& q) {
    GetTwoBits<P>(unit, lane, q);
    AddBit<P>(unit + kBitsAt, lane, 4, q);
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
