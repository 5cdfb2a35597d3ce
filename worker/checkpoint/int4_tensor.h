#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/quantization_config.h"
#include "worker/checkpoint/quantized_tensor.h"
#include "worker/checkpoint/safetensors.h"

namespace trireme {

// A matrix [rows, columns] of 4 bits an element, `prefix` being "NAME.". Stored transposed, eight
// elements in an int32, with a scale and a zero for each group of columns of each row:
//
//   kAwq    NAME.qweight [columns, rows / 8], eight rows in an int32: from the lowest bits on rows
//           0, 2, 4, 6, 1, 3, 5, 7
//   kGptq   NAME.qweight [columns / 8, rows], eight columns in an int32, in order
//   both    NAME.qzeros [groups, rows / 8], eight rows in an int32 (kAwq: in that order);
//           NAME.scales [groups, rows] F16 or BF16. BF16 is rounded to F16, which is exact from
//           2^-17 on.
//   kGptq   NAME.g_idx [columns] I32, the group of each column. Without act_order it may be absent,
//           and must be column / group_size.
//
// Becomes DType::kInt4Zero, or with groups in another order DType::kBF16: scale * (q - zero),
// rounded to nearest, ties to even. The columns must be a multiple of the group size.
absl::StatusOr<std::unique_ptr<QuantizedTensor>> OpenInt4Tensor(const SafetensorsFiles& files,
                                                                const std::string& prefix,
                                                                const QuantizationConfig& config);

}  // namespace trireme
