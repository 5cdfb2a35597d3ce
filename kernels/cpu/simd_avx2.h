#pragma once

#include <immintrin.h>

#include <cstdint>

namespace trireme {

// Eight of the lanes: what a matrix product works on, so that a larger tile fits the registers.
struct SimdAvx2Half {
  static constexpr int kLanes = 8;
  using V = __m256;

  static V Zero() { return _mm256_setzero_ps(); }
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
  static constexpr int kTileRowsSingle = 4;
  // Twelve accumulators of eight lanes, three of x and one of w: all 16 registers.
  static constexpr int kTileTokens = 3;
  static constexpr int kTileRows = 4;

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
  // Two bfloat16 lie in each 32-bit word: the even lanes, then the odd ones, cost one operation a
  // register, the lanes in order two. A matrix product may keep lanes in this "split" order.
  static constexpr bool kSplitsBf16 = true;
  static __m256 LoadSplitBf16(const uint16_t* p, int part) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i odd = _mm256_set1_epi32(static_cast<int>(0xffff0000));
    return _mm256_castsi256_ps(part == 0 ? _mm256_slli_epi32(pairs, 16)
                                         : _mm256_and_si256(pairs, odd));
  }
  static V LoadSplit(const float* p) {
    const __m256 even = _mm256_loadu_ps(p);
    const __m256 odd = _mm256_loadu_ps(p + 8);
    const __m256 low = _mm256_unpacklo_ps(even, odd);
    const __m256 high = _mm256_unpackhi_ps(even, odd);
    return {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
  }
  static void StoreSplit(float* p, V a) {
    const __m256 low = _mm256_permute2f128_ps(a.lo, a.hi, 0x20);
    const __m256 high = _mm256_permute2f128_ps(a.lo, a.hi, 0x31);
    _mm256_storeu_ps(p, _mm256_shuffle_ps(low, high, 0x88));
    _mm256_storeu_ps(p + 8, _mm256_shuffle_ps(low, high, 0xdd));
  }
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
  static V RoundToInteger(V a) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
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
