#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace trireme::cuda {

// What x and the weights are made of; sums are float32 for all (no TF32).
enum class GemmType { kF32, kF16, kBF16, kFp8E4M3 };

// Of fp8 operands: what their elements are multiplied with.
enum class Fp8Scales {
  kTensor,  // one float for x and one for the weights; null: 1
  kRows,    // one for each token of x and for each row of the weights
};

// y[t, n] = sum over k of x[t, k] * weight[n, k] (+ bias[n]). All matrices row-major, their rows
// `..._stride` elements apart, in device memory.
struct GemmArgs {
  GemmType type = GemmType::kBF16;
  int64_t tokens = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* weight = nullptr;
  int64_t weight_stride = 0;
  const float* bias = nullptr;  // null: none, as it must be of fp8
  float* y = nullptr;
  int64_t y_stride = 0;

  Fp8Scales scales = Fp8Scales::kTensor;
  const float* x_scales = nullptr;
  const float* weight_scales = nullptr;

  void* workspace = nullptr;  // kGemmWorkspaceBytes, at a multiple of 256
  cudaStream_t stream = nullptr;
};

// What NVIDIA recommends for Hopper.
inline constexpr int64_t kGemmWorkspaceBytes = int64_t{32} << 20;

// Matrix products by cuBLASLt. Which of its kernels fits a shape is asked once and remembered; Run
// only launches, so it may be captured in a CUDA graph, and the same shape gives the same bits. One
// caller at a time.
class Gemm {
 public:
  // For the calling thread's current device.
  static absl::StatusOr<std::unique_ptr<Gemm>> Create();
  virtual ~Gemm() = default;

  // Whether the device and library have fp8 products, and with Fp8Scales::kRows.
  virtual bool has_fp8() const = 0;
  virtual bool has_fp8_row_scales() const = 0;

  // "unsupported: ..." where the device or library has no such product.
  virtual absl::Status Run(const GemmArgs& args) = 0;
};

// What holds for any implementation: InvalidArgument for shapes and strides that make no sense or,
// of fp8, are no multiples of 16.
absl::Status CheckGemm(const GemmArgs& args);

}  // namespace trireme::cuda
