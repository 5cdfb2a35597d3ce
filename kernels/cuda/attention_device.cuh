#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_kernels.h"

namespace trireme::cuda {

// exp(x) = 2^(x * kLog2E)
inline constexpr float kLog2E = 1.44269504088896341f;

// The unmerged rows: outputs not yet divided by their sums [row, part, head_dim], then their maxima
// and sums [row, part, 2].
struct AttentionParts {
  float* out;
  float* softmax;
  int64_t parts_max;
  int64_t head_dim;

  __device__ explicit AttentionParts(const AttentionArgs& a)
      : out(reinterpret_cast<float*>(a.workspace)),
        parts_max((int64_t{a.step.context_max} + kAttentionSplit - 1) / kAttentionSplit),
        head_dim(a.cache.head_dim) {
    const int64_t rows = int64_t{a.step.sequences} * a.step.split_query_max * a.heads;
    softmax = out + rows * parts_max * head_dim;
  }

  __device__ static int64_t Row(const AttentionArgs& a, int sequence, int token_of_sequence,
                                int head) {
    const int64_t token = int64_t{sequence} * a.step.split_query_max + token_of_sequence;
    return token * a.heads + head;
  }
  __device__ float* Out(int64_t row, int part) const {
    return out + (row * parts_max + part) * head_dim;
  }
  __device__ float* Softmax(int64_t row, int part) const {
    return softmax + (row * parts_max + part) * 2;
  }
};

// The first position that a token at `position` sees.
__device__ inline int FirstSeen(const AttentionArgs& a, int position) {
  return a.window > 0 && position >= a.window ? position + 1 - a.window : 0;
}

// Where a head of a token lies in q and out.
__device__ inline int64_t QueryOffset(const AttentionArgs& a, int token, int head) {
  return (int64_t{token} * a.heads + head) * a.cache.head_dim;
}

}  // namespace trireme::cuda
