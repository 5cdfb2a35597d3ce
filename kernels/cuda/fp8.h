#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

// What an fp8 product needs before and after the library. All pointers are to device memory.

// Each token's x by its own scale, largest magnitude / 448 (1 if all are zero), rounded to E4M3.
// cols is a multiple of 16.
struct QuantizeFp8Args {
  const float* x;  // [tokens, cols], at a multiple of 16 bytes
  int64_t tokens;
  int64_t cols;
  uint8_t* out;   // [tokens, cols], at a multiple of 4 bytes
  float* scales;  // [tokens]
  cudaStream_t stream;
};
void LaunchQuantizeFp8(const QuantizeFp8Args& args);

// y[t, n] = y[t, n] * x_scales[t] * weight_scales[n] (+ bias[n]), in place.
struct FinishFp8Args {
  float* y;  // [tokens, rows]
  int64_t tokens;
  int64_t rows;
  const float* x_scales;  // null, and then weight_scales too: the product has applied them
  const float* weight_scales;
  const float* bias;  // null: none
  cudaStream_t stream;
};
void LaunchFinishFp8(const FinishFp8Args& args);

}  // namespace trireme::cuda
