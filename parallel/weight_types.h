#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/tensor.h"
#include "parallel/model_shape.h"
#include "parallel/shard.h"

namespace trireme {

// In which data type a rank holds each tensor of a model, without reading weights. Immutable, so
// thread safe.
class WeightTypes {
 public:
  // As the files of a GGUF model or of a checkpoint directory say: only their headers are read. A
  // directory without weights, or a config.json alone, is taken at its word: its dtype and
  // quantization_config. What is stored in FP8 is held in BF16, as workers do.
  static absl::StatusOr<WeightTypes> Load(const std::filesystem::path& model,
                                          const ModelShape& shape);
  // As if the checkpoint were in this type: a name of DTypeName. Of a quantised one embedding,
  // head, router, norms, biases and vision tower stay BF16.
  static absl::StatusOr<WeightTypes> Named(std::string_view name);

  // "BF16", or "Q4_K (files)": what was assumed, for people.
  const std::string& description() const { return description_; }

  // INVALID_ARGUMENT if the files lack the tensor, UNIMPLEMENTED if it is of a type that workers do
  // not read.
  absl::StatusOr<DType> Of(const TensorSlice& slice) const;

 private:
  std::string description_;
  bool from_files_ = false;
  std::map<std::string, std::string, std::less<>> stored_;  // type of each tensor in the files
  DType matrices_ = DType::kBF16;                           // without files: of layers' matrices
  DType others_ = DType::kBF16;
};

// Bytes that a rank allocates for a slice in this type: Weights::bytes() of the worker is their
// sum. The error says that tensor parallelism would cut a quantised matrix inside a block.
absl::StatusOr<int64_t> HeldBytes(const TensorSlice& slice, DType dtype);

}  // namespace trireme
