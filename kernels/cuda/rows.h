#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

// Copies of rows, in device memory; results must not overlap what is read.

// out[i, :] = x[index[i], :], or zeros where index[i] is negative.
struct GatherRowsArgs {
  const float* x = nullptr;  // [any, cols]
  const int32_t* index = nullptr;
  float* out = nullptr;  // [rows, cols]
  int64_t rows = 0;
  int64_t cols = 0;
  cudaStream_t stream = nullptr;
};
void GatherRows(const GatherRowsArgs& args);

// out[row, rank * slice + i] = slices[rank, row, i]: ranks' parts of logits, as all-gather leaves
// them, side by side; columns from `cols` on, if the last rank's part is longer, are left out.
struct MergeSlicesArgs {
  const float* slices = nullptr;  // [ranks, rows, slice]
  float* out = nullptr;           // [rows, cols]
  int64_t ranks = 0;
  int64_t rows = 0;
  int64_t slice = 0;
  int64_t cols = 0;  // at most ranks * slice
  cudaStream_t stream = nullptr;
};
void MergeSlices(const MergeSlicesArgs& args);

}  // namespace trireme::cuda
