#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

namespace trireme::quant {

// FP8 E4M3 (Micikevicius et al. 2022): a sign, four bits of exponent with bias 7, three of
// mantissa. No infinity; all ones but the sign is NaN.

inline constexpr float kE4m3Max = 448.0f;

TRIREME_HOST_DEVICE inline float FromE4m3(uint8_t bits) {
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  uint32_t word = 0;  // of a float: subnormal numbers are multiples of 2^-9
  const float tiny = static_cast<float>(mantissa) * 0x1p-9f;
  if (exponent == 0) {
    std::memcpy(&word, &tiny, sizeof(word));
  } else if ((bits & 0x7f) == 0x7f) {
    word = 0x7fc00000;
  } else {
    word = (static_cast<uint32_t>(exponent + 120) << 23) | (static_cast<uint32_t>(mantissa) << 20);
  }
  word |= static_cast<uint32_t>(bits & 0x80) << 24;
  float value = 0;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

// Rounded to nearest, ties to even; magnitudes above 448 become 448. A NaN stays one.
TRIREME_HOST_DEVICE inline uint8_t ToE4m3(float x) {
  uint32_t word = 0;
  std::memcpy(&word, &x, sizeof(word));
  const uint32_t sign = word >> 24 & 0x80;
  const uint32_t magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint8_t>(sign | 0x7f);
  uint32_t bits = 0;
  if (magnitude < 0x3c800000) {  // 2^-6: below, multiples of 2^-9, the last place of 2^14
    float shifted = 0;
    std::memcpy(&shifted, &magnitude, sizeof(shifted));
    shifted += 0x1p14f;
    std::memcpy(&bits, &shifted, sizeof(bits));
    bits -= 0x46800000;
  } else {
    bits = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120 << 3);
    if (bits > 0x7e) bits = 0x7e;
  }
  return static_cast<uint8_t>(sign | bits);
}

// How a reader gives DType::kFp8: blocks of so many columns, a float scale, the same in all of a
// row's blocks, before its quants.
inline constexpr int64_t kFp8BlockColumns = 16;
inline constexpr int64_t kFp8BlockBytes = 4 + kFp8BlockColumns;

// `blocks` blocks of a row: the quants beside each other, and the scale.
inline float SplitFp8Row(const std::byte* stored, int64_t blocks, std::byte* quants) {
  for (int64_t block = 0; block < blocks; ++block) {
    std::memcpy(quants + block * kFp8BlockColumns, stored + block * kFp8BlockBytes + 4,
                static_cast<size_t>(kFp8BlockColumns));
  }
  float scale = 0;
  std::memcpy(&scale, stored, sizeof(scale));
  return scale;
}

}  // namespace trireme::quant
