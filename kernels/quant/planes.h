#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

namespace trireme::quant {

// Rows whose quants lie side by side: one row a lane.
inline constexpr int kPanelRows = 16;
// Columns that share a scale, and that a kernel takes at a time.
inline constexpr int kBlockColumns = 32;
inline constexpr int kQuads = kBlockColumns / 4;

// The quants of a unit, 16 rows x 32 columns, lie in planes. A "quad" is four consecutive columns
// of a row; a quad of all rows is 64 bytes, row after row, which is what an integer dot product
// instruction takes. Below, `lane` is the row in the panel, and Put... writes that row's part.

inline uint32_t LoadWord(const void* p) {
  uint32_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}
inline uint64_t LoadDoubleWord(const void* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}
inline uint16_t LoadHalf(const void* p) {
  uint16_t half;
  std::memcpy(&half, p, sizeof(half));
  return half;
}
inline void StoreWord(std::byte* p, uint32_t word) { std::memcpy(p, &word, sizeof(word)); }
inline void PutHalf(std::byte* halves, int lane, const std::byte* half) {
  std::memcpy(halves + lane * 2, half, 2);
}

// Bytes: eight quads, 512 bytes.
inline constexpr int kBytePlane = 512;
inline void PutBytes(std::byte* plane, int lane, const uint8_t* q) {
  for (int i = 0; i < kQuads; ++i) StoreWord(plane + i * 64 + lane * 4, LoadWord(q + 4 * i));
}

// Nibbles: 256 bytes, quad i in the low halves, quad i + 4 in the high ones. `q` has columns 0..15
// in its low halves and 16..31 in the high ones.
inline constexpr int kNibblePlane = 256;
inline void PutNibbles(std::byte* plane, int lane, const void* q) {
  for (int i = 0; i < kQuads / 2; ++i) {
    StoreWord(plane + i * 64 + lane * 4, LoadWord(static_cast<const std::byte*>(q) + 4 * i));
  }
}
// The same from one column a byte, in the low half (shift 0) or the high half (4) of each.
inline void PutNibblesOf(std::byte* plane, int lane, const std::byte* bytes, int shift) {
  uint64_t q[2];
  for (int i = 0; i < 2; ++i) {
    constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0f;
    const uint64_t low = (LoadDoubleWord(bytes + 8 * i) >> shift) & kLow;
    const uint64_t high = (LoadDoubleWord(bytes + 16 + 8 * i) >> shift) & kLow;
    q[i] = low | (high << 4);
  }
  PutNibbles(plane, lane, q);
}

// Two bits: 128 bytes; quads 4p .. 4p + 3 share the bytes of half p. Taken from bits shift and
// shift + 1 of one byte a column.
inline constexpr int kTwoBitPlane = 128;
inline void PutTwoBitsOf(std::byte* plane, int lane, const std::byte* bytes, int shift) {
  constexpr uint32_t kTwo = 0x03030303;
  for (int p = 0; p < 2; ++p) {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) {
      word |= ((LoadWord(bytes + 4 * (4 * p + i)) >> shift) & kTwo) << (2 * i);
    }
    StoreWord(plane + p * 64 + lane * 4, word);
  }
}

// One bit: 64 bytes, 64 bits for each quad. Bit c of `bits` is that of column c.
inline constexpr int kOneBitPlane = 64;
inline void PutBits(std::byte* plane, int lane, uint32_t bits) {
  for (int i = 0; i < kQuads; ++i) {
    const auto four = static_cast<std::byte>(((bits >> (4 * i)) & 15u) << (4 * (lane % 2)));
    std::byte& to = plane[i * 8 + lane / 2];
    to = lane % 2 == 0 ? four : to | four;
  }
}

// The kernels' side, for the lanes from `lane` on that a vector type P holds (SimdScalar and the
// like): its quads, one vector of bytes each.
//
// A GPU's thread holds one lane (P::kLanes == 1) and takes two of the row's quads, i and i + 4, as
// matrix units want them: it asks for lane + 16 i and finds them in q[0] and q[4].

template <class P>
using Quads = typename P::Bytes[kQuads];
template <class P>
inline constexpr int kQuadStep = P::kLanes == 1 ? kQuads / 2 : 1;

template <class P>
TRIREME_HOST_DEVICE inline void GetBytes(const std::byte* plane, int lane, Quads<P>& q) {
  for (int i = 0; i < kQuads; i += kQuadStep<P>) q[i] = P::LoadBytes(plane + i * 64 + lane * 4);
}

template <class P>
TRIREME_HOST_DEVICE inline void GetNibbles(const std::byte* plane, int lane, Quads<P>& q) {
  for (int i = 0; i < kQuads / 2; i += kQuadStep<P>) {
    const typename P::Bytes both = P::LoadBytes(plane + i * 64 + lane * 4);
    q[i] = P::template BitsFrom<0>(both, 0x0f);
    q[i + 4] = P::template BitsFrom<4>(both, 0x0f);
  }
}

template <class P>
TRIREME_HOST_DEVICE inline typename P::Bytes TwoBitsOfOne(const std::byte* quads, int lane) {
  const typename P::Bytes four = P::LoadBytes(quads + lane % kPanelRows * 4);
  return P::template BitsFrom<0>(four >> (2 * (lane / kPanelRows)), 3);
}

template <class P>
TRIREME_HOST_DEVICE inline void GetTwoBits(const std::byte* plane, int lane, Quads<P>& q) {
  for (int p = 0; p < 2; ++p) {
    if constexpr (P::kLanes == 1) {
      q[4 * p] = TwoBitsOfOne<P>(plane + p * 64, lane);
      continue;
    }
    const typename P::Bytes four = P::LoadBytes(plane + p * 64 + lane * 4);
    q[4 * p] = P::template BitsFrom<0>(four, 3);
    q[4 * p + 1] = P::template BitsFrom<2>(four, 3);
    q[4 * p + 2] = P::template BitsFrom<4>(four, 3);
    q[4 * p + 3] = P::template BitsFrom<6>(four, 3);
  }
}

// Adds two bits above nibbles.
template <class P>
TRIREME_HOST_DEVICE inline void AddTwoBits(const std::byte* plane, int lane, Quads<P>& q) {
  for (int p = 0; p < 2; ++p) {
    if constexpr (P::kLanes == 1) {
      q[4 * p] = P::Or(q[4 * p], TwoBitsOfOne<P>(plane + p * 64, lane) << 4);
      continue;
    }
    const typename P::Bytes four = P::LoadBytes(plane + p * 64 + lane * 4);
    q[4 * p] = P::Or(q[4 * p], P::template BitsFrom<-4>(four, 0x30));
    q[4 * p + 1] = P::Or(q[4 * p + 1], P::template BitsFrom<-2>(four, 0x30));
    q[4 * p + 2] = P::Or(q[4 * p + 2], P::template BitsFrom<0>(four, 0x30));
    q[4 * p + 3] = P::Or(q[4 * p + 3], P::template BitsFrom<2>(four, 0x30));
  }
}

// Adds `value` where the plane's bit is set.
template <class P>
TRIREME_HOST_DEVICE inline void AddBit(const std::byte* plane, int lane, uint8_t value,
                                       Quads<P>& q) {
  for (int i = 0; i < kQuads; i += kQuadStep<P>) {
    if constexpr (P::kLanes == 1) {
      q[i] = P::OrWhere(q[i], static_cast<uint32_t>(plane[i * 8 + lane / 2]) >> (4 * (lane % 2)),
                        value);
    } else {
      q[i] = P::OrWhere(q[i], plane + i * 8 + lane / 2, value);
    }
  }
}

}  // namespace trireme::quant
