#include "worker/checkpoint/gguf.h"

#include <atomic>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "parallel/gguf_config.h"
#include "parallel/gguf_names.h"
#include "parallel/gguf_types.h"
#include "worker/checkpoint/slice.h"

namespace trireme {
namespace {

class Gguf final : public Checkpoint {
 public:
  Gguf(GgufFile file, ModelConfig config, bool interleaved)
      : file_(std::move(file)), config_(std::move(config)), interleaved_(interleaved) {}

  // Gives every tensor of the file its name.
  absl::Status AddTensors() {
    for (const GgufTensor& tensor : file_.tensors()) {
      if (tensor.name == "rope_freqs.weight") continue;  // part of the ModelConfig
      ASSIGN_OR_RETURN(const bool known, Add(tensor));
      if (known) continue;
      return absl::UnimplementedError(
          absl::StrCat(file_.origin(), ": unsupported: tensor ", Quoted(tensor.name),
                       " is none of the architecture ", config_.architecture));
    }
    return absl::OkStatus();
  }

  const std::string& origin() const override { return file_.origin(); }

  const TensorInfo* Find(std::string_view name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second.info;
  }

  absl::Status ReadBlocks(const TensorSlice& slice, int64_t first_row, int64_t rows,
                          std::span<std::byte> destination) const override {
    const auto found = tensors_.find(slice.name);
    if (found == tensors_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(origin(), ": tensor ", Quoted(slice.name), " is missing"));
    }
    const Located& located = found->second;
    RETURN_IF_ERROR(CheckSlice(slice, located.info, first_row, rows, destination.size(), origin(),
                               "the file's metadata"));
    if (slice.is_vector && located.stored.interleaved_head_dim > 0 && rows > 0) {
      // Its elements are in the order of a matrix's rows.
      const TensorSlice column = {.name = slice.name,
                                  .full_rows = slice.full_cols,
                                  .full_cols = 1,
                                  .rows = slice.cols,
                                  .cols = {.begin = 0, .end = 1},
                                  .is_vector = false};
      CopyRows(column, located.stored, 0, column.rows.size(), destination);
    } else {
      CopyRows(slice, located.stored, first_row, rows, destination);
    }
    bytes_read_ += destination.size();
    return absl::OkStatus();
  }

  // Interleaved rows come from the same heads, near enough.
  std::vector<std::span<const std::byte>> Stretches(const TensorSlice& slice) const override {
    const auto found = tensors_.find(slice.name);
    if (found == tensors_.end()) return {};
    return SliceStretches(slice, found->second.info, found->second.stored.data);
  }

  uint64_t bytes_read() const override { return bytes_read_; }

 private:
  struct Located {
    TensorInfo info;
    StoredTensor stored;
  };

  // False if the architecture has no such tensor.
  absl::StatusOr<bool> Add(const GgufTensor& tensor) {
    const GgufNames found = HuggingFaceNames(tensor.name, config_);
    if (found.names.empty()) return false;
    if (found.stacked) return AddStacked(found.names, tensor);
    return AddNamed(found.names.front(), tensor, tensor.shape, tensor.data);
  }

  // All experts of a layer: the first dimension.
  absl::StatusOr<bool> AddStacked(const std::vector<std::string>& names, const GgufTensor& tensor) {
    const size_t experts = names.size();
    if (tensor.shape.size() != 3 || tensor.shape[0] != config_.num_experts) {
      return absl::InvalidArgumentError(absl::StrCat(origin(), ": tensor ", Quoted(tensor.name),
                                                     " must have three dimensions, the first of ",
                                                     config_.num_experts, " experts"));
    }
    const std::vector<int64_t> shape(tensor.shape.begin() + 1, tensor.shape.end());
    const size_t bytes = tensor.data.size() / experts;
    for (size_t expert = 0; expert < experts; ++expert) {
      ASSIGN_OR_RETURN(const bool added, AddNamed(names[expert], tensor, shape,
                                                  tensor.data.subspan(expert * bytes, bytes)));
      if (!added) return false;
    }
    return true;
  }

  absl::StatusOr<bool> AddNamed(std::string name, const GgufTensor& tensor,
                                const std::vector<int64_t>& shape,
                                std::span<const std::byte> data) {
    ASSIGN_OR_RETURN(const DType dtype, ReadableType(tensor));
    Located located;
    located.info = {.dtype = dtype, .stored_type = GgufTypeName(tensor.type), .shape = shape};
    located.stored = {.dtype = located.info.dtype, .data = data};
    if (interleaved_ && (name.find("q_proj") != name.npos || name.find("k_proj") != name.npos)) {
      if (shape.front() % config_.head_dim != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(origin(), ": tensor ", Quoted(tensor.name), " has ", shape.front(),
                         " rows, no multiple of a head's ", config_.head_dim));
      }
      located.stored.interleaved_head_dim = config_.head_dim;
    }
    if (tensors_.try_emplace(std::move(name), std::move(located)).second) return true;
    return absl::InvalidArgumentError(absl::StrCat(origin(), ": tensor ", Quoted(tensor.name),
                                                   " is there in another form as well"));
  }

  // Every tensor of the file is read by some rank: what none can read is refused before any begins.
  absl::StatusOr<DType> ReadableType(const GgufTensor& tensor) const {
    const bool vector = tensor.shape.size() == 1;
    const auto readable = [vector](const GgufType& type) {
      return type.dtype.has_value() && !(vector && IsQuantized(*type.dtype));
    };
    const GgufType* type = FindGgufType(tensor.type);
    if (type != nullptr && readable(*type)) return *type->dtype;
    std::string supported;
    for (const GgufType& other : GgufTypes()) {
      if (!readable(other)) continue;
      absl::StrAppend(&supported, supported.empty() ? "" : ", ", std::string(other.name));
    }
    return absl::UnimplementedError(
        absl::StrCat(origin(), ": unsupported: tensor ", Quoted(tensor.name), " is ",
                     GgufTypeName(tensor.type), "; supported are ", supported));
  }

  const GgufFile file_;
  const ModelConfig config_;
  const bool interleaved_;
  std::map<std::string, Located, std::less<>> tensors_;
  mutable std::atomic<uint64_t> bytes_read_{0};
};

}  // namespace

bool IsGguf(const std::filesystem::path& path) {
  std::error_code error;
  return IsGgufPath(path) && std::filesystem::is_regular_file(path, error);
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGguf(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
  return GgufCheckpoint(std::move(file));
}

absl::StatusOr<std::unique_ptr<Checkpoint>> GgufCheckpoint(GgufFile file) {
  ASSIGN_OR_RETURN(ModelConfig config, GgufModelConfig(file));
  ASSIGN_OR_RETURN(const std::string_view architecture, file.String("general.architecture"));
  auto checkpoint = std::make_unique<Gguf>(std::move(file), std::move(config),
                                           /*interleaved=*/architecture == "llama");
  RETURN_IF_ERROR(checkpoint->AddTensors());
  return checkpoint;
}

}  // namespace trireme
