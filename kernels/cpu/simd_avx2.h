#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace trireme {

// Eight of the lanes: what a matrix product works on, so that a larger tile fits the registers.
struct SimdAvx2Half {
  static constexpr int kLanes = 8;
  // Sums of quantised products at a time, and panels that share activations.
  static constexpr int kQuantSums = 1;
  static constexpr int kQuantPanels = 1;
  using V = __m256;

  static V Zero() { return _mm256_setzero_ps(); }
  static V Set1(float x) { return _mm256_set1_ps(x); }
  static V Add(V a, V b) { return _mm256_add_ps(a, b); }
  static V Sub(V a, V b) { return _mm256_sub_ps(a, b); }
  static V Mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static V Load(const float* p) { return _mm256_loadu_ps(p); }
  // The first n lanes, none if n < 0; the others are zero.
  static V Load(const float* p, int n) { return _mm256_maskload_ps(p, Mask(n)); }
  static V LoadBf16(const uint16_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static V LoadF16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static V LoadInt8(const int8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  }
  static void Store(float* p, V a) { _mm256_storeu_ps(p, a); }
  static void Store(float* p, V a, int n) { _mm256_maskstore_ps(p, Mask(n), a); }
  static V Fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  // Keeps the value in a register: the compiler would load it anew for every use.
  static void Hold(V& a) { __asm__("" : "+x"(a)); }

  using Bytes = __m256i;
  using Ints = __m256i;

  static Bytes LoadBytes(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void StoreBytes(std::byte* p, Bytes a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
  }
  template <int shift>
  static Bytes BitsFrom(Bytes a, uint8_t mask) {
    if constexpr (shift > 0) a = _mm256_srli_epi16(a, shift);
    if constexpr (shift < 0) a = _mm256_slli_epi16(a, -shift);
    return _mm256_and_si256(a, _mm256_set1_epi8(static_cast<char>(mask)));
  }
  static Bytes Or(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
  // Every byte gets the byte of `bits` that has its bit, then is compared with that bit.
  static Bytes OrWhere(Bytes a, const std::byte* bits, uint8_t value) {
    int32_t word = 0;
    std::memcpy(&word, bits, sizeof(word));
    const __m256i bytes =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(word), bytes);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    const __m256i values = _mm256_set1_epi8(static_cast<char>(value));
    return _mm256_or_si256(a, _mm256_and_si256(set, values));
  }
  template <const uint8_t (&table)[16]>
  static Bytes Lookup(Bytes index) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), index);
  }
  static Bytes BroadcastQuad(const int8_t* p) {
    int32_t quad = 0;
    std::memcpy(&quad, p, sizeof(quad));
    return _mm256_set1_epi32(quad);
  }
  static Ints SetInts(int32_t x) { return _mm256_set1_epi32(x); }
  // Pairs of products fit 16 bits if the unsigned bytes are small; else even and odd bytes are
  // widened first.
  template <bool small>
  static Ints Dot(Ints sum, Bytes u, Bytes s) {
    if constexpr (small) {
      const __m256i pairs = _mm256_maddubs_epi16(u, s);
      return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    } else {
      const __m256i u_even = _mm256_and_si256(u, _mm256_set1_epi16(0xff));
      const __m256i s_even = _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8);
      const __m256i even = _mm256_madd_epi16(u_even, s_even);
      const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(s, 8));
      return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
    }
  }
  struct Bf16Pairs {
    __m256 odd, even;
  };
  static Bf16Pairs Widen(__m256i pairs) {
    const __m256i odd = _mm256_set1_epi32(static_cast<int>(0xffff0000));
    return {_mm256_castsi256_ps(_mm256_and_si256(pairs, odd)),
            _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))};
  }
  static Bf16Pairs LoadBf16Pairs(const std::byte* p) { return Widen(LoadBytes(p)); }
  static Bf16Pairs BroadcastBf16Pair(uint32_t pair) {
    return Widen(_mm256_set1_epi32(static_cast<int>(pair)));
  }
  static V DotBf16(V sum, Bf16Pairs a, Bf16Pairs b) {
    return Fma(a.even, b.even, Fma(a.odd, b.odd, sum));
  }
  static V ToFloats(Ints a) { return _mm256_cvtepi32_ps(a); }

 private:
  static __m256i Mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

// SimdScalar's lanes in two 256-bit registers. Needs AVX2, FMA and F16C.
struct SimdAvx2 {
  using Part = SimdAvx2Half;
  static constexpr const char* kName = "avx2";
  static constexpr int kLanes = 16;
  static constexpr int kSums = 4;  // vectors of sums that the registers hold beside operands
  static constexpr int kTileRowsSingle = 4;
  // Twelve accumulators of eight lanes, three of x and one of w: all 16 registers.
  static constexpr int kTileTokens = 3;
  static constexpr int kTileRows = 4;
  static constexpr int kBf16Tokens = 3;

  struct V {
    __m256 lo, hi;
  };

  static V Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static V Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static V Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static V Load(const float* p, int n) { return {Part::Load(p, n), Part::Load(p + 8, n - 8)}; }
  static V LoadBf16(const uint16_t* p) { return {Part::LoadBf16(p), Part::LoadBf16(p + 8)}; }
  static V LoadF16(const uint16_t* p) { return {Part::LoadF16(p), Part::LoadF16(p + 8)}; }
  static V LoadInt8(const int8_t* p) { return {Part::LoadInt8(p), Part::LoadInt8(p + 8)}; }
  static void Store(float* p, V a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
  }
  static void Store(float* p, V a, int n) {
    Part::Store(p, a.lo, n);
    Part::Store(p + 8, a.hi, n - 8);
  }

  static V Add(V a, V b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  static V Sub(V a, V b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  static V Mul(V a, V b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  static V Div(V a, V b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  static V Fma(V a, V b, V c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  static V Max(V a, V b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  static V Min(V a, V b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
  static V Abs(V a) {
    const __m256 bits = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(a.lo, bits), _mm256_and_ps(a.hi, bits)};
  }
  static V RoundToInteger(V a) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
  }
  static int32_t StoreInt8(int8_t* p, V a) {
    const __m256i lo = _mm256_cvtps_epi32(a.lo);
    const __m256i hi = _mm256_cvtps_epi32(a.hi);
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    const __m256i s8 = _mm256_add_epi32(lo, hi);
    const __m128i s4 = _mm_add_epi32(_mm256_castsi256_si128(s8), _mm256_extracti128_si256(s8, 1));
    const __m128i s2 = _mm_add_epi32(s4, _mm_unpackhi_epi64(s4, s4));
    return _mm_cvtsi128_si32(s2) + _mm_extract_epi32(s2, 1);
  }
  static V ScaleByPowerOfTwo(V a, V n) { return {Scale(a.lo, n.lo), Scale(a.hi, n.hi)}; }

  static float ReduceAdd(V a) {
    const __m256 s8 = _mm256_add_ps(a.lo, a.hi);
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
  }
  static float ReduceMax(V a) {
    const __m256 s8 = _mm256_max_ps(a.lo, a.hi);
    const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
  }

 private:
  static __m256 Scale(__m256 a, __m256 n) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
  }
};

}  // namespace trireme
