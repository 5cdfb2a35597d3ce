#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

// out[t, :] = h[t, :] / sqrt(mean(h[t, :]^2) + eps) * weight, where h is `hidden` or, with a delta,
// first hidden[t, :] += delta[t, :] (+ bias), which is stored. Zhang and Sennrich 2019. Pointers
// are to device memory; out may be hidden, without a delta. A row's bits depend on its length, and
// on whether all pointers are aligned to 16 bytes, which makes it fast; not on the other rows.
struct RmsNormArgs {
  float* hidden = nullptr;       // [rows, cols]
  const float* delta = nullptr;  // [rows, cols], or null
  const float* bias = nullptr;   // [cols], or null
  const float* weight = nullptr;
  float eps = 0.0f;
  float* out = nullptr;  // [rows, cols]
  int64_t rows = 0;
  int64_t cols = 0;
  cudaStream_t stream = nullptr;
};
void RmsNorm(const RmsNormArgs& args);

}  // namespace trireme::cuda
