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

// In which data type each tensor of a model comes to a rank, without reading weights. Immutable, so
// thread safe.
class WeightTypes {
 public:
  // As the files of a GGUF model or of a checkpoint directory say: only their headers are read. A
  // directory without weights, or a config.json alone, is taken at its word: its dtype and
  // quantization_config. What of FP8 no device multiplies is read as BF16, as workers do; so is 4
  // bits in act order, of which workers leave packed what turns out to be in order.
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

// How ranks hold weights, which depends on their device.
struct WeightHolding {
  bool packs_bf16 = true;  // in panels (Ops::Packs), as CPUs do
  bool keeps_fp8 = false;  // as it is (Ops::MultipliesFp8), not widened
  bool float32 = false;    // --dtype float32: what is not quantised in 32 bits
};

// Whether the rows of a slice that is stored in FP8 can be multiplied as they are.
inline bool FitsFp8Products(const TensorSlice& slice) {
  constexpr int64_t kBlock = DTypeBlock(DType::kFp8).block_elements;
  return !slice.is_vector && slice.rows.size() % kBlock == 0 && slice.cols.begin % kBlock == 0 &&
         slice.cols.size() % kBlock == 0;
}

// A slice as a rank holds it.
struct HeldSlice {
  DType dtype = DType::kF32;
  int64_t bytes = 0;  // that it allocates: Weights::bytes() of the worker is their sum
};

// The error says that tensor parallelism would cut a quantised matrix inside a block; others are
// WeightTypes::Of's.
absl::StatusOr<HeldSlice> HeldAs(const TensorSlice& slice, const WeightTypes& types,
                                 const WeightHolding& holding);

}  // namespace trireme
