#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/linear_plan.h"
#include "kernels/tensor.h"

namespace trireme::cuda {

// y[t, n] = sum over k of x[t, k] * weight[n, k] (+ bias[n]). Pointers are to device memory, the
// weight's too: quantised ones in panels (quant::PackedLayout), at multiples of 16 bytes; floats
// row-major. y is [tokens, rows].
struct LinearProduct {
  Weight weight;
  const float* bias = nullptr;  // null: none
  float* y = nullptr;
  // Of a mixture's expert, in device memory: its first token, and the one behind its last one. Only
  // these tokens are multiplied, and only their rows of y written. Null: all tokens.
  const int32_t* token_range = nullptr;
};

struct LinearArgs {
  const float* x = nullptr;  // [tokens, cols]
  int64_t tokens = 0;
  std::span<const LinearProduct> products;  // all of the same number of columns
  // Most tokens of a token_range, which all products have, or none (0). Launches depend on it, and
  // not on the ranges: such calls may be captured, and replayed with other ranges.
  int64_t range_tokens = 0;
  void* workspace = nullptr;  // LinearWorkspaceBytes, at a multiple of 256
  int64_t workspace_bytes = 0;
  Gemm* gemm = nullptr;  // for many tokens
  int64_t dequantize_bytes = kDequantizeBytes;
  cudaStream_t stream = nullptr;
};

// Queues the products of one x on the stream, without waiting and without allocating, so that it
// may be captured. x is rounded to bfloat16 (float16 for float16 weights, magnitudes above 65504
// cut; to E4M3 with a scale for each token for fp8 ones; not for float32 ones), sums are float32.
// What a sum's order is depends on the weight's shape and on a coarse step of the number of tokens
// (linear_plan.h), not on the other tokens nor on the other products, and is the same each time.
// Shapes are CHECKed; errors are Gemm's, and those of launches the runtime's last one (launch.h).
//
// Calls that use a workspace must follow one another on one stream. Its first kLinearCounterBytes
// must be zero before its first use; each call leaves them so.
absl::Status Linear(const LinearArgs& args);

// Enough for a call with these weights and any number of tokens up to `tokens`.
int64_t LinearWorkspaceBytes(int64_t tokens, std::span<const Weight> weights,
                             int64_t dequantize_bytes = kDequantizeBytes);

inline constexpr int64_t kLinearCounterBytes = 8192;

}  // namespace trireme::cuda
