#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/bf16_pairs.cuh"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {

// The online softmax of one thread's share of a product m16n8k16: rows lane / 4 and lane / 4 + 8,
// of each sixteen positions the four of Column(). Decode and prefill compute a row with the very
// same operations in the same order; fused multiply-adds are written out, so that the compiler has
// no choice to make.

// Positions that a row sees.
struct SeenRange {
  int begin;
  int end;
  __device__ bool Holds(int at) const { return at >= begin && at < end; }
};

// One row within a part of the context. Scores are unscaled, `sum` is this thread's share.
struct RowSoftmax {
  float max = -INFINITY;
  float sum = 0.0f;

  // Takes a tile's largest score. Returns what the sums so far are worth.
  __device__ float Raise(float tile_max, float scale_log2) {
    const float raised = fmaxf(max, tile_max);
    // A row that has seen nothing yet has no difference of maxima.
    const float keep = raised == -INFINITY ? 1.0f : Exp2((max - raised) * scale_log2);
    max = raised;
    return keep;
  }
  // The exponent's offset that goes with the present maximum.
  __device__ float Offset(float scale_log2) const {
    return max == -INFINITY ? 0.0f : -(max * scale_log2);
  }
  // Takes the four groups' sums of weights.
  __device__ void Add(float keep, const float (&sums)[kTileGroups]) {
    sum = fmaf(sum, keep, sums[0]);
    for (int i = 1; i < kTileGroups; ++i) sum += sums[i];
  }
};

// A row's parts of the context so far.
struct MergedSoftmax {
  float max = -INFINITY;
  float sum = 0.0f;

  struct Worth {
    float old_part;
    float new_part;
  };
  // Takes the next part; says what the two outputs, not yet divided by their sums, are worth.
  __device__ Worth Merge(float part_max, float part_sum, float scale_log2) {
    const float raised = fmaxf(max, part_max);
    if (raised == -INFINITY) return {0.0f, 0.0f};
    const Worth worth = {Exp2((max - raised) * scale_log2), Exp2((part_max - raised) * scale_log2)};
    max = raised;
    sum = fmaf(part_sum, worth.new_part, sum * worth.old_part);
    return worth;
  }
};

__device__ inline float MergeOutput(const MergedSoftmax::Worth& worth, float old_out, float part) {
  return fmaf(part, worth.new_part, old_out * worth.old_part);
}

// The scores of sixteen positions: [product][row * 2 + c].
using GroupScores = float[2][4];

// Multiplies by the scales of int8 keys, of which `key_scales` are the group's.
template <class Tile>
__device__ inline void ScaleScores(GroupScores& s, const float* key_scales, int quad) {
  if constexpr (Tile::kScaled) {
#pragma unroll
    for (int j = 0; j < 8; ++j) s[j / 4][j % 4] *= key_scales[Tile::Column(j / 4, quad, j % 2)];
  }
}

// Sets what a row does not see to -infinity; `at` is the group's first position.
template <class Tile>
__device__ inline void MaskScores(GroupScores& s, const SeenRange (&rows)[2], int at, int quad) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float& score = s[j / 4][j % 4];
    const int column = Tile::Column(j / 4, quad, j % 2);
    score = rows[j % 4 / 2].Holds(at + column) ? score : -INFINITY;
  }
}

__device__ inline float GroupMax(const GroupScores& s, int row) {
  return fmaxf(fmaxf(s[0][2 * row], s[0][2 * row + 1]), fmaxf(s[1][2 * row], s[1][2 * row + 1]));
}

// Over the four threads that share a row.
__device__ inline float QuadMax(float x) {
  x = fmaxf(x, ShuffleXor(x, 1));
  return fmaxf(x, ShuffleXor(x, 2));
}
__device__ inline float QuadSum(float x) {
  x += ShuffleXor(x, 1);
  return x + ShuffleXor(x, 2);
}

// Scores become weights; returns their sum.
__device__ inline float GroupWeights(GroupScores& s, int row, float offset, float scale_log2) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      s[n][2 * row + c] = Exp2(fmaf(s[n][2 * row + c], scale_log2, offset));
    }
  }
  return (s[0][2 * row] + s[0][2 * row + 1]) + (s[1][2 * row] + s[1][2 * row + 1]);
}

// The weights as A operand of the product with values; int8 values' scales go along with them.
template <class Tile>
__device__ inline void PackWeights(const GroupScores& s, const float* value_scales, int quad,
                                   uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // rows i % 2, product i / 2
    float w[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      w[c] = s[i / 2][i % 2 * 2 + c];
      if constexpr (Tile::kScaled) {
        // Where the weight is zero the slot may never have been written.
        const float scale = value_scales[Tile::Column(i / 2, quad, c)];
        w[c] = w[c] == 0.0f ? 0.0f : w[c] * scale;
      }
    }
    a[i] = PairOf(w[0], w[1]);
  }
}

}  // namespace trireme::cuda
