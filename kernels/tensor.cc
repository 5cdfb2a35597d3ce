#include "kernels/tensor.h"

#include "kernels/cpu/linear.h"
#include "kernels/cpu/quant_linear.h"
#include "kernels/cpu/simd_scalar.h"

namespace trireme {

std::vector<float> ToFloats(const Weight& weight) {
  std::vector<float> floats(static_cast<size_t>(weight.rows * weight.cols));
  if (IsQuantized(weight.dtype)) {
    const quant::PackedLayout layout(weight.dtype, weight.rows, weight.cols, weight.block_offset);
    for (int64_t row = 0; row < weight.rows; ++row) {
      cpu::WidenQuantRow<SimdScalar>(weight.dtype, static_cast<const std::byte*>(weight.data),
                                     layout, row, floats.data() + row * weight.cols);
    }
    return floats;
  }
  for (int64_t row = 0; row < weight.rows; ++row) {
    cpu::WidenRow<SimdScalar>(weight, row, floats.data() + row * weight.cols);
  }
  return floats;
}

}  // namespace trireme
