#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

// Element by element, in device memory; in place. Shazeer 2020; Hendrycks and Gimpel 2016.
struct GatedArgs {
  float* gate = nullptr;
  const float* up = nullptr;
  int64_t n = 0;
  cudaStream_t stream = nullptr;
};
void SiluMul(const GatedArgs& args);      // gate[i] = silu(gate[i]) * up[i]
void GeluTanhMul(const GatedArgs& args);  // gelu by its tanh approximation

// hidden[t, :] += delta[t, :] (+ bias). RmsNorm (rms_norm.h) does this on its way.
struct AddResidualArgs {
  float* hidden = nullptr;       // [rows, cols]
  const float* delta = nullptr;  // [rows, cols]
  const float* bias = nullptr;   // [cols], or null
  int64_t rows = 0;
  int64_t cols = 0;
  cudaStream_t stream = nullptr;
};
void AddResidual(const AddResidualArgs& args);

}  // namespace trireme::cuda
