#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace trireme {

// Sixteen float lanes in plain C++: the meaning of the vector variants, lane for lane and bit for
// bit. A dot product keeps sixteen running sums, one per lane, each updated by fused multiply-add;
// lanes past the end of a row hold zero. Every variant offers the same static functions.
struct SimdScalar {
  using Part = SimdScalar;  // the lanes that one register holds
  static constexpr const char* kName = "scalar";
  static constexpr int kLanes = 16;
  static constexpr int kSums = 4;  // vectors of sums that the registers hold beside operands
  // Register tile of the matrix product: tokens x weight rows, for one token and for several.
  static constexpr int kTileRowsSingle = 4;
  static constexpr int kTileTokens = 2;
  static constexpr int kTileRows = 2;
  // Of a tile of a product with bfloat16 weights, two panels.
  static constexpr int kBf16Tokens = 2;
  // Sums of quantised products at a time, and panels that share activations.
  static constexpr int kQuantSums = 1;
  static constexpr int kQuantPanels = 1;

  struct V {
    float lane[kLanes];
  };

  template <class F>
  static V Map(F f) {
    V r;
    for (int i = 0; i < kLanes; ++i) r.lane[i] = f(i);
    return r;
  }

  static V Zero() { return Set1(0.0f); }
  static V Set1(float x) {
    return Map([&](int) { return x; });
  }
  static V Load(const float* p) {
    return Map([&](int i) { return p[i]; });
  }
  static V Load(const float* p, int n) {
    return Map([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  // bfloat16 and IEEE half, as their 16 bits.
  static V LoadBf16(const uint16_t* p) {
    return Map([&](int i) { return std::bit_cast<float>(uint32_t{p[i]} << 16); });
  }
  static V LoadF16(const uint16_t* p) {
    return Map([&](int i) { return HalfToFloat(p[i]); });
  }
  static V LoadInt8(const int8_t* p) {
    return Map([&](int i) { return static_cast<float>(p[i]); });
  }
  static void Store(float* p, V a) {
    for (int i = 0; i < kLanes; ++i) p[i] = a.lane[i];
  }
  static void Store(float* p, V a, int n) {
    for (int i = 0; i < n; ++i) p[i] = a.lane[i];
  }

  static V Add(V a, V b) {
    return Map([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static V Sub(V a, V b) {
    return Map([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static V Mul(V a, V b) {
    return Map([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static V Div(V a, V b) {
    return Map([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  // a * b + c, rounded once.
  static V Fma(V a, V b, V c) {
    return Map([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
  }
  static void Hold(V&) {}
  static V Max(V a, V b) {
    return Map([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static V Min(V a, V b) {
    return Map([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static V RoundToInteger(V a) {
    return Map([&](int i) { return std::nearbyintf(a.lane[i]); });
  }
  static V Abs(V a) {
    return Map([&](int i) { return std::fabs(a.lane[i]); });
  }
  // a * 2^n for integral n in [-127, 127] where the result stays normal.
  static V ScaleByPowerOfTwo(V a, V n) {
    return Map([&](int i) {
      const int32_t exponent = static_cast<int32_t>(n.lane[i]);
      return std::bit_cast<float>(std::bit_cast<int32_t>(a.lane[i]) + exponent * (1 << 23));
    });
  }

  // Lane i with lane i + 8, then + 4, + 2, + 1.
  static float ReduceAdd(V a) {
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) a.lane[i] += a.lane[i + half];
    }
    return a.lane[0];
  }
  static float ReduceMax(V a) {
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) {
        a.lane[i] = a.lane[i] > a.lane[i + half] ? a.lane[i] : a.lane[i + half];
      }
    }
    return a.lane[0];
  }

  // Quantised weights: four unsigned bytes a lane.
  struct Bytes {
    uint8_t byte[4 * kLanes];
  };
  struct Ints {
    int32_t lane[kLanes];
  };

  template <class F>
  static Bytes MapBytes(F f) {
    Bytes r;
    for (int i = 0; i < 4 * kLanes; ++i) r.byte[i] = static_cast<uint8_t>(f(i));
    return r;
  }

  static Bytes LoadBytes(const std::byte* p) {
    Bytes r;
    std::memcpy(r.byte, p, sizeof(r.byte));
    return r;
  }
  static void StoreBytes(std::byte* p, Bytes a) { std::memcpy(p, a.byte, sizeof(a.byte)); }
  // Each byte shifted right by `shift` (left if negative), and `mask` of it.
  template <int shift>
  static Bytes BitsFrom(Bytes a, uint8_t mask) {
    return MapBytes([&](int i) {
      return (shift >= 0 ? a.byte[i] >> (shift & 7) : a.byte[i] << (-shift & 7)) & mask;
    });
  }
  static Bytes Or(Bytes a, Bytes b) {
    return MapBytes([&](int i) { return a.byte[i] | b.byte[i]; });
  }
  // a, with the bits of `value`, which it does not have, where bit i of `bits` is set.
  static Bytes OrWhere(Bytes a, const std::byte* bits, uint8_t value) {
    return MapBytes([&](int i) {
      const bool set = ((static_cast<int>(bits[i / 8]) >> (i % 8)) & 1) != 0;
      return set ? a.byte[i] | value : a.byte[i];
    });
  }
  template <const uint8_t (&table)[16]>
  static Bytes Lookup(Bytes index) {
    return MapBytes([&](int i) { return table[index.byte[i]]; });
  }
  // The same four signed bytes in every lane.
  static Bytes BroadcastQuad(const int8_t* p) {
    return MapBytes([&](int i) { return static_cast<uint8_t>(p[i % 4]); });
  }
  static Ints SetInts(int32_t x) {
    Ints r;
    for (int32_t& lane : r.lane) lane = x;
    return r;
  }
  // sum + the dot products of four unsigned and four signed bytes in each lane; exact. With `small`
  // the unsigned ones are below 128.
  template <bool small>
  static Ints Dot(Ints sum, Bytes u, Bytes s) {
    for (int i = 0; i < 4 * kLanes; ++i) {
      sum.lane[i / 4] += int32_t{u.byte[i]} * static_cast<int8_t>(s.byte[i]);
    }
    return sum;
  }
  static V ToFloats(Ints a) {
    return Map([&](int i) { return static_cast<float>(a.lane[i]); });
  }
  // A pair of bfloat16 in each lane, the even one below.
  struct Bf16Pairs {
    uint32_t lane[kLanes];
  };
  static Bf16Pairs LoadBf16Pairs(const std::byte* p) {
    Bf16Pairs r;
    std::memcpy(r.lane, p, sizeof(r.lane));
    return r;
  }
  static Bf16Pairs BroadcastBf16Pair(uint32_t pair) {
    Bf16Pairs r;
    for (uint32_t& lane : r.lane) lane = pair;
    return r;
  }
  // sum + the products of the odd ones, then of the even ones, rounded after each.
  static V DotBf16(V sum, Bf16Pairs a, Bf16Pairs b) {
    return Map([&](int i) {
      const auto odd = [](uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); };
      const auto even = [](uint32_t pair) { return std::bit_cast<float>(pair << 16); };
      const float high = std::fma(odd(a.lane[i]), odd(b.lane[i]), sum.lane[i]);
      return std::fma(even(a.lane[i]), even(b.lane[i]), high);
    });
  }
  // Stores integral floats from -127 to 127; returns their sum.
  static int32_t StoreInt8(int8_t* p, V a) {
    int32_t sum = 0;
    for (int i = 0; i < kLanes; ++i) {
      p[i] = static_cast<int8_t>(a.lane[i]);
      sum += p[i];
    }
    return sum;
  }

 private:
  static float HalfToFloat(uint16_t half) {
    const uint32_t sign = uint32_t{half & 0x8000u} << 16;
    const uint32_t exponent = (half >> 10) & 0x1f;
    const uint32_t mantissa = half & 0x3ff;
    if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
      const float value = static_cast<float>(mantissa) * 0x1p-24f;
      return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
    }
    if (exponent == 31) {  // infinity, or a NaN made quiet as the hardware does
      const uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
      return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13) | quiet);
    }
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
};

}  // namespace trireme
