#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_kernels.h"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {

// The product that this block of threads works on, and its place in it.
struct BlockPlace {
  ProductPart product;
  int row_block;
  int split;
  int token;   // first one
  int tokens;  // of this tile; none if a token range ends before it
};

__device__ inline BlockPlace FindBlock(const ProductsArgs& args, int tile_tokens) {
  BlockPlace place;
  place.product = args.products[0];
  const int block = static_cast<int>(blockIdx.x);
#pragma unroll
  for (int i = 1; i < kProductsMax; ++i) {
    if (block >= args.products[i].first_block) place.product = args.products[i];
  }
  const int at = block - place.product.first_block;
  place.row_block = at / place.product.splits;
  place.split = at % place.product.splits;
  place.token = static_cast<int>(blockIdx.y) * tile_tokens;
  int left = args.tokens - place.token;
  if (const int32_t* range = place.product.token_range; range != nullptr) {
    place.token += range[0];
    left = range[1] - place.token;
  }
  place.tokens = left < tile_tokens ? left : tile_tokens;
  return place;
}

// Columns [begin, end) of a row, in steps; `step_count` the same for all groups of a block.
struct ColumnSlice {
  int begin;
  int end;
  int step_count;
};

// Slice `slice` of `slices` of `items` things that are taken `step` at a time.
__device__ inline ColumnSlice SliceOf(int items, int step, int slice, int slices) {
  const int steps = (items + step - 1) / step;
  const int each = (steps + slices - 1) / slices;
  const int begin = slice * each * step;
  const int end = begin + each * step;
  return {begin < items ? begin : items, end < items ? end : items, each};
}

// Adds what the groups of warps have summed, in their order, and then what the splits have, in
// theirs, by the block that is done last; adds the bias and writes y. `sums` is shared memory,
// [groups][tokens][tile_rows], complete for all threads.
__device__ inline void FinishSums(const BlockPlace& place, const float* sums, int groups,
                                  int tile_rows, int all_tokens, int* last_flag) {
  const ProductPart& p = place.product;
  const int row_begin = place.row_block * tile_rows;
  const int threads = static_cast<int>(blockDim.x);
  const int n = place.tokens * tile_rows;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += threads) {
    const int row = row_begin + i % tile_rows;
    const int token = place.token + i / tile_rows;
    if (row >= p.rows) continue;
    float sum = sums[i];
    for (int group = 1; group < groups; ++group) sum += sums[group * n + i];
    const int64_t at = int64_t{token} * p.rows + row;
    if (p.splits == 1) {
      p.y[at] = p.bias == nullptr ? sum : sum + p.bias[row];
    } else {
      p.partials[int64_t{place.split} * all_tokens * p.rows + at] = sum;
    }
  }
  if (p.splits == 1) return;
  const int row_blocks = (p.rows + tile_rows - 1) / tile_rows;
  int32_t* counter = p.counters + static_cast<int>(blockIdx.y) * row_blocks + place.row_block;
  __threadfence();
  SyncThreads();
  if (threadIdx.x == 0) {
    const bool last = atomicAdd(counter, 1) == p.splits - 1;
    if (last) *counter = 0;
    *last_flag = last ? 1 : 0;
  }
  SyncThreads();
  if (*last_flag == 0) return;
  __threadfence();
  for (int i = static_cast<int>(threadIdx.x); i < n; i += threads) {
    const int row = row_begin + i % tile_rows;
    if (row >= p.rows) continue;
    const int64_t at = int64_t{place.token + i / tile_rows} * p.rows + row;
    float sum = p.partials[at];
    for (int split = 1; split < p.splits; ++split) {
      sum += p.partials[int64_t{split} * all_tokens * p.rows + at];
    }
    p.y[at] = p.bias == nullptr ? sum : sum + p.bias[row];
  }
}

}  // namespace trireme::cuda
