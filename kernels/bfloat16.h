#pragma once

#include <bit>
#include <cstdint>

namespace trireme {

// The upper 16 bits of x, rounded to nearest, ties to even; a NaN stays one. Always inline: it is
// compiled for several instruction sets, and the linker would keep one of the copies for all.
[[gnu::always_inline]] inline uint16_t RoundToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return static_cast<uint16_t>((x != x ? bits | 0x400000 : rounded) >> 16);
}

}  // namespace trireme
