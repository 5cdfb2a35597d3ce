// Gemm without cuBLASLt: the same contract in plain loops, as a kernel of one thread, so that it is
// recorded and replayed where launches are.

#include <bit>
#include <cmath>
#include <cstdint>

#include "base/status_macros.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launch.h"

namespace trireme::cuda {
namespace {

float Half(uint16_t bits) {
  const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
  const int exponent = (bits >> 10) & 31;
  const float mantissa = static_cast<float>(bits & 1023);
  if (exponent == 31) return mantissa == 0.0f ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024.0f + mantissa, exponent - 25);
}

// Four bits of exponent, three of mantissa, no infinities (Micikevicius et al. 2022).
float E4M3(uint8_t bits) {
  const float sign = (bits & 0x80) != 0 ? -1.0f : 1.0f;
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return NAN;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -9);
  return sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}

float Element(GemmType type, const void* data, int64_t i) {
  switch (type) {
    case GemmType::kF32:
      return static_cast<const float*>(data)[i];
    case GemmType::kF16:
      return Half(static_cast<const uint16_t*>(data)[i]);
    case GemmType::kBF16:
      return std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(data)[i]} << 16);
    case GemmType::kFp8E4M3:
      return E4M3(static_cast<const uint8_t*>(data)[i]);
  }
  return NAN;
}

__global__ void GemmKernel(const GemmArgs a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    for (int64_t n = 0; n < a.rows; ++n) {
      float sum = 0;
      for (int64_t k = 0; k < a.cols; ++k) {
        sum += Element(a.type, a.x, t * a.x_stride + k) *
               Element(a.type, a.weight, n * a.weight_stride + k);
      }
      if (a.type == GemmType::kFp8E4M3) {
        const bool rows = a.scales == Fp8Scales::kRows;
        if (a.x_scales != nullptr) sum *= a.x_scales[rows ? t : 0];
        if (a.weight_scales != nullptr) sum *= a.weight_scales[rows ? n : 0];
      }
      a.y[t * a.y_stride + n] = a.bias == nullptr ? sum : sum + a.bias[n];
    }
  }
}

class EmulatedGemm : public Gemm {
 public:
  explicit EmulatedGemm(bool has_fp8) : has_fp8_(has_fp8) {}

  bool has_fp8() const override { return has_fp8_; }
  bool has_fp8_row_scales() const override { return has_fp8_; }

  absl::Status Run(const GemmArgs& args) override {
    RETURN_IF_ERROR(CheckGemm(args));
    Launch(GemmKernel, LaunchShape{.grid = dim3(1), .block = dim3(1), .stream = args.stream}, args);
    return absl::OkStatus();
  }

 private:
  const bool has_fp8_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Gemm>> Gemm::Create() {
  int device = 0;
  int major = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  return std::make_unique<EmulatedGemm>(/*has_fp8=*/major >= 9);
}

}  // namespace trireme::cuda
