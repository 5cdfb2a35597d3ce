#pragma once

#include <cstdint>

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
  static constexpr bool kSplitsBf16 = false;
  static constexpr int kTileRowsSingle = 8;
  // 24 accumulators, four of x and one of w: 29 of 32 registers.
  static constexpr int kTileTokens = 4;
  static constexpr int kTileRows = 6;

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

 private:
  static __mmask16 Mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static __m256 Low(V a) { return _mm512_castps512_ps256(a); }
  static __m256 High(V a) {
    return _mm256_castsi256_ps(_mm512_extracti64x4_epi64(_mm512_castps_si512(a), 1));
  }
};

}  // namespace trireme
