#include "worker/checkpoint/quantized_safetensors.h"

#include <atomic>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "parallel/quantization_config.h"
#include "worker/checkpoint/int4_tensor.h"
#include "worker/checkpoint/quantized_tensor.h"
#include "worker/checkpoint/safetensors.h"
#include "worker/checkpoint/scaled_tensor.h"
#include "worker/checkpoint/slice.h"

namespace trireme {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kQweight = "qweight";

class QuantizedSafetensors final : public Checkpoint {
 public:
  explicit QuantizedSafetensors(SafetensorsFiles files) : files_(std::move(files)) {}

  absl::Status AddTensors(const QuantizationConfig& config) {
    const bool int4 =
        config.method == QuantizationMethod::kAwq || config.method == QuantizationMethod::kGptq;
    for (const auto& [name, tensor] : files_.tensors()) {
      RETURN_IF_ERROR(int4 ? AddInt4(name, config) : AddScaled(name, tensor, config));
    }
    return absl::OkStatus();
  }

  const std::string& origin() const override { return files_.origin(); }

  const TensorInfo* Find(std::string_view name) const override {
    if (const auto found = quantized_.find(name); found != quantized_.end()) {
      return &found->second->info();
    }
    const SafetensorsTensor* plain = files_.Find(name);
    return plain == nullptr ? nullptr : &plain->info;
  }

  absl::Status ReadBlocks(const TensorSlice& slice, int64_t first_row, int64_t rows,
                          std::span<std::byte> destination) const override {
    const auto found = quantized_.find(slice.name);
    if (found == quantized_.end()) {
      RETURN_IF_ERROR(ReadSafetensorsBlocks(files_, slice, first_row, rows, destination));
    } else {
      RETURN_IF_ERROR(ReadQuantized(slice, *found->second, first_row, rows, destination));
    }
    bytes_read_ += destination.size();
    return absl::OkStatus();
  }

  std::vector<std::span<const std::byte>> Stretches(const TensorSlice& slice) const override {
    const auto found = quantized_.find(slice.name);
    if (found == quantized_.end()) return SafetensorsStretches(files_, slice);
    const QuantizedTensor& tensor = *found->second;
    if (!Fits(slice, tensor.info())) return {};
    return tensor.Stretches(slice.rows, BlockColumns(slice, tensor.info().dtype));
  }

  uint64_t bytes_read() const override { return bytes_read_; }

 private:
  absl::Status AddInt4(std::string_view name, const QuantizationConfig& config) {
    if (!name.ends_with(kQweight)) return absl::OkStatus();
    const std::string prefix(name.substr(0, name.size() - kQweight.size()));
    ASSIGN_OR_RETURN(quantized_[prefix + "weight"], OpenInt4Tensor(files_, prefix, config));
    return absl::OkStatus();
  }

  absl::Status AddScaled(const std::string& name, const SafetensorsTensor& tensor,
                         const QuantizationConfig& config) {
    const std::string& type = tensor.info.stored_type;
    const bool eight_bits = type == "I8" || type == "F8_E4M3";
    if (!name.ends_with(kWeight) || (!eight_bits && files_.Find(name + "_scale") == nullptr)) {
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(quantized_[name], OpenScaledTensor(files_, name, config));
    return absl::OkStatus();
  }

  absl::Status ReadQuantized(const TensorSlice& slice, const QuantizedTensor& tensor,
                             int64_t first_row, int64_t rows,
                             std::span<std::byte> destination) const {
    RETURN_IF_ERROR(CheckSlice(slice, tensor.info(), first_row, rows, destination.size(), origin(),
                               "config.json"));
    if (destination.empty()) return absl::OkStatus();
    const IndexRange cols = BlockColumns(slice, tensor.info().dtype);
    const absl::Status status =
        tensor.Read(slice.rows.begin + first_row, rows, cols, destination.data());
    if (status.ok()) return status;
    return absl::InvalidArgumentError(
        absl::StrCat(origin(), ": tensor ", Quoted(slice.name), ": ", status.message()));
  }

  const SafetensorsFiles files_;
  std::map<std::string, std::unique_ptr<QuantizedTensor>, std::less<>> quantized_;
  mutable std::atomic<uint64_t> bytes_read_{0};
};

}  // namespace

bool HasQuantizedSafetensors(const std::filesystem::path& dir) {
  if (!HasSafetensors(dir)) return false;
  // A configuration that is wrong is refused by opening it.
  const auto config = QuantizationConfig::Load(dir);
  return !config.ok() || config->method != QuantizationMethod::kNone;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenQuantizedSafetensors(
    const std::filesystem::path& dir) {
  ASSIGN_OR_RETURN(const QuantizationConfig config, QuantizationConfig::Load(dir));
  ASSIGN_OR_RETURN(SafetensorsFiles files, SafetensorsFiles::Open(dir));
  auto checkpoint = std::make_unique<QuantizedSafetensors>(std::move(files));
  RETURN_IF_ERROR(checkpoint->AddTensors(config));
  return checkpoint;
}

}  // namespace trireme
