#include "kernels/cuda/gemm.h"

#include "absl/strings/str_cat.h"

namespace trireme::cuda {

absl::Status CheckGemm(const GemmArgs& a) {
  if (a.tokens <= 0 || a.rows <= 0 || a.cols <= 0 || a.x_stride < a.cols ||
      a.weight_stride < a.cols || a.y_stride < a.rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("matrix product of ", a.tokens, " tokens, ", a.rows, " rows and ", a.cols,
                     " columns with strides ", a.x_stride, ", ", a.weight_stride, " and ",
                     a.y_stride, ": sizes must be positive and strides no smaller than rows"));
  }
  if (a.type != GemmType::kFp8E4M3) return absl::OkStatus();
  if (a.rows % 16 != 0 || a.cols % 16 != 0 || a.x_stride % 16 != 0 || a.weight_stride % 16 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("unsupported: fp8 product with ", a.rows, " rows and ", a.cols,
                     " columns; both must be multiples of 16. Use bfloat16"));
  }
  if (a.bias != nullptr) return absl::InvalidArgumentError("fp8 product with a bias");
  if (a.scales == Fp8Scales::kRows && (a.x_scales == nullptr || a.weight_scales == nullptr)) {
    return absl::InvalidArgumentError("fp8 product without the scales of its rows");
  }
  return absl::OkStatus();
}

}  // namespace trireme::cuda
