#pragma once

#include <cstdint>
#include <filesystem>

#include "absl/status/statusor.h"
#include "parallel/json_fields.h"

namespace trireme {

enum class QuantizationMethod { kNone, kInt8, kFp8, kAwq, kGptq };

// How the matrices of a Hugging Face checkpoint are stored, as the quantization_config of its
// config.json says. Which of them are is not here: a matrix is quantised if its scales are in the
// files. Plain data.
//
//   quant_method         format                             read as
//   compressed-tensors   int-quantized, naive-quantized     kInt8: a scale for each row, or for all
//   compressed-tensors   float-quantized, naive-quantized   kFp8: the same, or for each block
//   fp8                                                     kFp8: a scale for each block
//   awq                  version gemm                       kAwq: 4 bits, a scale and zero for each
//                                                           group of columns of each row
//   gptq                 checkpoint_format gptq, gptq_v2    kGptq: the same
//
// Formats: https://github.com/vllm-project/compressed-tensors,
// https://github.com/casper-hansen/AutoAWQ, https://github.com/ModelCloud/GPTQModel.
struct QuantizationConfig {
  QuantizationMethod method = QuantizationMethod::kNone;
  int64_t group_size = 0;        // kAwq, kGptq: a multiple of 32; 0: the whole row
  bool zeros_minus_one = false;  // kGptq: zeros are stored less one
  bool act_order = false;        // kGptq: a group's columns may be anywhere in the row
  // kFp8: rows and columns that share a scale; 0: a scale for each row, or for all.
  int64_t block_rows = 0;
  int64_t block_cols = 0;
  bool fp8_activations = false;  // kFp8: meant to be multiplied with activations of 8 bits

  // Reads DIR/config.json; kNone if there is none. The error names the file and the key, and what
  // would be accepted.
  static absl::StatusOr<QuantizationConfig> Load(const std::filesystem::path& dir);
  // Takes the whole config.json.
  static absl::StatusOr<QuantizationConfig> Parse(const JsonFields& config);
};

}  // namespace trireme
