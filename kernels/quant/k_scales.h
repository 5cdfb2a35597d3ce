#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// Scales of the K formats: a super-block of 256 columns has float16 d (and dmin), each 32 or 16
// columns a small integer that multiplies it (and one for the min).

struct SubScales {
  uint8_t scale;
  uint8_t min;
};

// Eight pairs of six bits in 12 bytes, as Q4_K and Q5_K store them: the pairs 0 to 3 in bytes 0..3
// and 4..7, the others in the nibbles of bytes 8..11 below the upper two bits of the former.
inline SubScales SixBitScales(const std::byte* stored, int block) {
  const auto byte = [&](int i) { return static_cast<uint8_t>(stored[i]); };
  if (block < 4) {
    return {static_cast<uint8_t>(byte(block) & 63), static_cast<uint8_t>(byte(block + 4) & 63)};
  }
  const uint8_t low = byte(block + 4);
  return {static_cast<uint8_t>((low & 15) | ((byte(block - 4) >> 6) << 4)),
          static_cast<uint8_t>((low >> 4) | ((byte(block) >> 6) << 4))};
}

// The bytes of a unit: scales, then mins; those of a header: d, then dmin.
inline void PutSubScales(std::byte* ints, int lane, SubScales s) {
  ints[lane] = static_cast<std::byte>(s.scale);
  ints[kPanelRows + lane] = static_cast<std::byte>(s.min);
}
inline void PutDAndDmin(std::byte* header, int lane, const std::byte* stored) {
  PutHalf(header, lane, stored);
  PutHalf(header + 2 * kPanelRows, lane, stored + 2);
}
template <class P>
TRIREME_HOST_DEVICE inline void GetSubScales(const std::byte* ints, const std::byte* header,
                                             int lane, typename P::V* scales, typename P::V* mins) {
  scales[0] = P::Mul(GetHalves<P>(header, lane), GetInts<P>(ints, lane));
  mins[0] =
      P::Mul(GetHalves<P>(header + 2 * kPanelRows, lane), GetInts<P>(ints + kPanelRows, lane));
}

}  // namespace trireme::quant
