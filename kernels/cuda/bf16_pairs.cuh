#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>

// Pairs of bfloat16 in a word, the first below, as matrix units take them.

namespace trireme::cuda {

__device__ inline uint32_t WordOfPair(__nv_bfloat162 pair) {
  uint32_t word = 0;
  std::memcpy(&word, &pair, sizeof(word));
  return word;
}
__device__ inline __nv_bfloat162 PairOfWord(uint32_t word) {
  __nv_bfloat162 pair;
  std::memcpy(&pair, &word, sizeof(word));
  return pair;
}

__device__ inline uint32_t SubtractPairs(uint32_t a, uint32_t b) {
  return WordOfPair(__hsub2(PairOfWord(a), PairOfWord(b)));
}
// Rounded to nearest, ties to even.
__device__ inline uint32_t PairOf(float low, float high) {
  return WordOfPair(__floats2bfloat162_rn(low, high));
}

// The int8 in the lower bytes of two halves as bfloat16, exactly. Below the exponent of 128, seven
// bits are a bfloat16 of 128 + them; the eighth, the sign, has 256 subtracted instead of 128.
__device__ inline uint32_t Int8PairToBf16(uint32_t halves) {
  const uint32_t low = (halves & 0x007f007f) | 0x43004300;
  const uint32_t base = (halves & 0x00800080) | 0x43004300;
  return SubtractPairs(low, base);
}

}  // namespace trireme::cuda
