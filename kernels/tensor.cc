#include "kernels/tensor.h"

#include "kernels/cpu/bf16_linear.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/quant_linear.h"
#include "kernels/cpu/simd_scalar.h"

namespace trireme {

std::vector<float> ToFloats(const Weight& weight) {
  std::vector<float> floats(static_cast<size_t>(weight.rows * weight.cols));
  if (weight.packed) {
    const quant::PackedLayout layout(weight.dtype, weight.rows, weight.cols, weight.block_offset);
    const auto* data = static_cast<const std::byte*>(weight.data);
    for (int64_t row = 0; row < weight.rows; ++row) {
      float* out = floats.data() + row * weight.cols;
      if (weight.dtype == DType::kBF16) {
        cpu::WidenBf16Row<SimdScalar>(data, layout, row, out);
      } else {
        cpu::WidenQuantRow<SimdScalar>(weight.dtype, data, layout, row, out);
      }
    }
    return floats;
  }
  for (int64_t row = 0; row < weight.rows; ++row) {
    cpu::WidenRow<SimdScalar>(weight, row, floats.data() + row * weight.cols);
  }
  return floats;
}

}  // namespace trireme
