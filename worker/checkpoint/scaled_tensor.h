#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/quantization_config.h"
#include "worker/checkpoint/quantized_tensor.h"
#include "worker/checkpoint/safetensors.h"

namespace trireme {

// A matrix [rows, columns] of 8 bits an element with float scales beside it, `weight` being
// "NAME.weight":
//
//   kInt8   I8; NAME.weight_scale, one for each row ([rows, 1] or [rows]) or for all ([1] or []).
//           Becomes DType::kInt8; the columns must be a multiple of 32.
//   kFp8    F8_E4M3; the same, or one for each block of rows and columns (also weight_scale_inv).
//           Becomes DType::kFp8, where a row has one scale, its columns are a multiple of 16 and
//           activations are meant to be of 8 bits too; else DType::kBF16, as an embedding, which is
//           not multiplied: value * scale, rounded to nearest, ties to even.
absl::StatusOr<std::unique_ptr<QuantizedTensor>> OpenScaledTensor(const SafetensorsFiles& files,
                                                                  const std::string& weight,
                                                                  const QuantizationConfig& config);

}  // namespace trireme
