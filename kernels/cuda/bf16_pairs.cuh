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

}  // namespace trireme::cuda
