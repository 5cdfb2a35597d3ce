#pragma once

// AVX-512 intrinsics in portable code: SIMDe, and the few that its Debian 12 version lacks, written
// from Intel's description of each.

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd_scalar.h"

using __mmask16 = uint16_t;

inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p) {
  float lanes[16] = {};
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i) & 1) std::memcpy(&lanes[i], static_cast<const float*>(p) + i, sizeof(float));
  }
  return _mm512_loadu_ps(lanes);
}

inline void _mm512_mask_storeu_ps(void* p, __mmask16 mask, __m512 a) {
  float lanes[16];
  _mm512_storeu_ps(lanes, a);
  for (int i = 0; i < 16; ++i) {
    if ((mask >> i) & 1) std::memcpy(static_cast<float*>(p) + i, &lanes[i], sizeof(float));
  }
}

inline __m512i _mm512_cvtepu16_epi32(__m256i a) {
  uint16_t from[16];
  uint32_t to[16];
  std::memcpy(from, &a, sizeof(from));
  for (int i = 0; i < 16; ++i) to[i] = from[i];
  return _mm512_loadu_si512(to);
}

inline __m512i _mm512_cvtepi8_epi32(__m128i a) {
  int8_t from[16];
  int32_t to[16];
  std::memcpy(from, &a, sizeof(from));
  for (int i = 0; i < 16; ++i) to[i] = from[i];
  return _mm512_loadu_si512(to);
}

inline __m512 _mm512_cvtepi32_ps(__m512i a) {
  int32_t from[16];
  float to[16];
  std::memcpy(from, &a, sizeof(from));
  for (int i = 0; i < 16; ++i) to[i] = static_cast<float>(from[i]);
  return _mm512_loadu_ps(to);
}

inline __m512 _mm512_cvtph_ps(__m256i a) {
  uint16_t halves[16];
  std::memcpy(halves, &a, sizeof(halves));
  float lanes[16];
  trireme::SimdScalar::Store(lanes, trireme::SimdScalar::LoadF16(halves));
  return _mm512_loadu_ps(lanes);
}

inline __m512i _mm512_cvtps_epi32(__m512 a) {
  float lanes[16];
  int32_t to[16];
  _mm512_storeu_ps(lanes, a);
  for (int i = 0; i < 16; ++i) to[i] = static_cast<int32_t>(std::nearbyintf(lanes[i]));
  return _mm512_loadu_si512(to);
}

// SIMDe's own rounds twice.
inline __m512 FusedMultiplyAdd(__m512 a, __m512 b, __m512 c) {
  float la[16], lb[16], lc[16];
  _mm512_storeu_ps(la, a);
  _mm512_storeu_ps(lb, b);
  _mm512_storeu_ps(lc, c);
  for (int i = 0; i < 16; ++i) lc[i] = std::fma(la[i], lb[i], lc[i]);
  return _mm512_loadu_ps(lc);
}
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps(a, b, c) FusedMultiplyAdd(a, b, c)

// In SIMDe a macro of the masked form's name and arguments.
inline __m512i MultiplyAddWords(__m512i a, __m512i b) {
  int16_t la[32], lb[32];
  int32_t to[16];
  std::memcpy(la, &a, sizeof(la));
  std::memcpy(lb, &b, sizeof(lb));
  for (int i = 0; i < 16; ++i) to[i] = la[2 * i] * lb[2 * i] + la[2 * i + 1] * lb[2 * i + 1];
  return _mm512_loadu_si512(to);
}
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) MultiplyAddWords(a, b)

inline __m128i _mm512_cvtepi32_epi8(__m512i a) {
  int32_t from[16];
  int8_t to[16];
  std::memcpy(from, &a, sizeof(from));
  for (int i = 0; i < 16; ++i) to[i] = static_cast<int8_t>(from[i]);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(to));
}

inline int32_t _mm512_reduce_add_epi32(__m512i a) {
  int32_t from[16];
  std::memcpy(from, &a, sizeof(from));
  int32_t sum = 0;
  for (const int32_t lane : from) sum += lane;
  return sum;
}
