#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

// The tests define this and bring emulated intrinsics, so that the variant's arithmetic is checked
// on machines without AVX-512 as well (tests/kernels/emulated_avx512.h).
#ifndef TRIREME_EMULATE_AVX512
#include <immintrin.h>
#endif

namespace trireme {

// SimdScalar's lanes in one 512-bit register. Needs AVX-512 F, BW, DQ and VL.
struct SimdAvx512 {
  using Part = SimdAvx512;
  static constexpr const char* kName = "avx512";
  static constexpr int kLanes = 16;
  static constexpr int kSums = 16;  // vectors of sums that the registers hold beside operands
  static constexpr int kTileRowsSingle = 8;
  // 24 accumulators, four of x and one of w: 29 of 32 registers.
  static constexpr int kTileTokens = 4;
  static constexpr int kTileRows = 6;
  static constexpr int kBf16Tokens = 8;
  // Sums of quantised products at a time, and panels that share activations.
  static constexpr int kQuantSums = 1;
  static constexpr int kQuantPanels = 1;

  using V = __m512;

  static V Zero() { return _mm512_setzero_ps(); }
  static V Set1(float x) { return _mm512_set1_ps(x); }
  static V Load(const float* p) { return _mm512_loadu_ps(p); }
  static V Load(const float* p, int n) { return _mm512_maskz_loadu_ps(Mask(n), p); }
  static V LoadBf16(const uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static V LoadF16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static V LoadInt8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  }
  static void Store(float* p, V a) { _mm512_storeu_ps(p, a); }
  static void Store(float* p, V a, int n) { _mm512_mask_storeu_ps(p, Mask(n), a); }

  static V Add(V a, V b) { return _mm512_add_ps(a, b); }
  static V Sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V Mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V Div(V a, V b) { return _mm512_div_ps(a, b); }
  static V Fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
#ifdef TRIREME_EMULATE_AVX512
  static void Hold(V&) {}
#else
  // Keeps the value in a register: the compiler would load it anew for every use.
  static void Hold(V& a) { __asm__("" : "+v"(a)); }
#endif
  static V Max(V a, V b) { return _mm512_max_ps(a, b); }
  static V Min(V a, V b) { return _mm512_min_ps(a, b); }
  static V Abs(V a) {
    const __m512i bits = _mm512_set1_epi32(0x7fffffff);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), bits));
  }
  static V RoundToInteger(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
  static V ScaleByPowerOfTwo(V a, V n) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), exponent));
  }

  static float ReduceAdd(V a) {
    const __m256 s8 = _mm256_add_ps(Low(a), High(a));
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
  }
  static float ReduceMax(V a) {
    const __m256 s8 = _mm256_max_ps(Low(a), High(a));
    const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
  }

  using Bytes = __m512i;
  using Ints = __m512i;

  static Bytes LoadBytes(const std::byte* p) { return _mm512_loadu_si512(p); }
  static void StoreBytes(std::byte* p, Bytes a) { _mm512_storeu_si512(p, a); }
  template <int shift>
  static Bytes BitsFrom(Bytes a, uint8_t mask) {
    if constexpr (shift > 0) a = _mm512_srli_epi16(a, shift);
    if constexpr (shift < 0) a = _mm512_slli_epi16(a, -shift);
    return _mm512_and_si512(a, _mm512_set1_epi8(static_cast<char>(mask)));
  }
  static Bytes Or(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
  static Bytes OrWhere(Bytes a, const std::byte* bits, uint8_t value) {
    uint64_t mask = 0;
    std::memcpy(&mask, bits, sizeof(mask));
    return _mm512_mask_add_epi8(a, mask, a, _mm512_set1_epi8(static_cast<char>(value)));
  }
  template <const uint8_t (&table)[16]>
  static Bytes Lookup(Bytes index) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), index);
  }
  static Bytes BroadcastQuad(const int8_t* p) {
    int32_t quad = 0;
    std::memcpy(&quad, p, sizeof(quad));
    return _mm512_set1_epi32(quad);
  }
  static Ints SetInts(int32_t x) { return _mm512_set1_epi32(x); }
  // Pairs of products fit 16 bits if the unsigned bytes are small; else even and odd bytes are
  // widened first.
  template <bool small>
  static Ints Dot(Ints sum, Bytes u, Bytes s) {
    if constexpr (small) {
      const __m512i pairs = _mm512_maddubs_epi16(u, s);
      return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
    } else {
      const __m512i u_even = _mm512_and_si512(u, _mm512_set1_epi16(0xff));
      const __m512i s_even = _mm512_srai_epi16(_mm512_slli_epi16(s, 8), 8);
      const __m512i even = _mm512_madd_epi16(u_even, s_even);
      const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(u, 8), _mm512_srai_epi16(s, 8));
      return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
    }
  }
  struct Bf16Pairs {
    __m512 odd, even;
  };
  static Bf16Pairs Widen(__m512i pairs) {
    const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    return {_mm512_castsi512_ps(_mm512_and_si512(pairs, odd)),
            _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))};
  }
  static Bf16Pairs LoadBf16Pairs(const std::byte* p) { return Widen(LoadBytes(p)); }
  static Bf16Pairs BroadcastBf16Pair(uint32_t pair) {
    return Widen(_mm512_set1_epi32(static_cast<int>(pair)));
  }
  static V DotBf16(V sum, Bf16Pairs a, Bf16Pairs b) {
    return Fma(a.even, b.even, Fma(a.odd, b.odd, sum));
  }
  static V ToFloats(Ints a) { return _mm512_cvtepi32_ps(a); }
  static int32_t StoreInt8(int8_t* p, V a) {
    const __m512i ints = _mm512_cvtps_epi32(a);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(ints));
    return _mm512_reduce_add_epi32(ints);
  }

 private:
  static __mmask16 Mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static __m256 Low(V a) { return _mm512_castps512_ps256(a); }
  static __m256 High(V a) {
    return _mm256_castsi256_ps(_mm512_extracti64x4_epi64(_mm512_castps_si512(a), 1));
  }
};

}  // namespace trireme
