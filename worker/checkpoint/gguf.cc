#include "worker/checkpoint/gguf.h"

#include <array>
#include <atomic>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "parallel/gguf_config.h"
#include "parallel/gguf_file.h"
#include "parallel/gguf_types.h"
#include "worker/checkpoint/slice.h"

namespace trireme {
namespace {

struct NamePair {
  std::string_view gguf;
  std::string_view hugging_face;
};

constexpr std::array kModelNames = {
    NamePair{"token_embd.weight", "model.embed_tokens.weight"},
    NamePair{"output_norm.weight", "model.norm.weight"},
    NamePair{"output.weight", "lm_head.weight"},
};

// Behind "blk.N." and "model.layers.N.".
constexpr std::array kLayerNames = {
    NamePair{"attn_norm.weight", "input_layernorm.weight"},
    NamePair{"attn_q.weight", "self_attn.q_proj.weight"},
    NamePair{"attn_k.weight", "self_attn.k_proj.weight"},
    NamePair{"attn_v.weight", "self_attn.v_proj.weight"},
    NamePair{"attn_output.weight", "self_attn.o_proj.weight"},
    NamePair{"attn_q.bias", "self_attn.q_proj.bias"},
    NamePair{"attn_k.bias", "self_attn.k_proj.bias"},
    NamePair{"attn_v.bias", "self_attn.v_proj.bias"},
    NamePair{"attn_output.bias", "self_attn.o_proj.bias"},
    NamePair{"attn_q_norm.weight", "self_attn.q_norm.weight"},
    NamePair{"attn_k_norm.weight", "self_attn.k_norm.weight"},
    NamePair{"ffn_gate.weight", "mlp.gate_proj.weight"},
    NamePair{"ffn_up.weight", "mlp.up_proj.weight"},
    NamePair{"ffn_down.weight", "mlp.down_proj.weight"},
    NamePair{"ffn_gate.bias", "mlp.gate_proj.bias"},
    NamePair{"ffn_up.bias", "mlp.up_proj.bias"},
    NamePair{"ffn_down.bias", "mlp.down_proj.bias"},
    NamePair{"ffn_gate_inp.weight", "block_sparse_moe.gate.weight"},
};

// The norms around the feed-forward: models with sandwich norms have three of them.
constexpr std::array kPlainNorms = {
    NamePair{"ffn_norm.weight", "post_attention_layernorm.weight"},
};
constexpr std::array kSandwichNorms = {
    NamePair{"post_attention_norm.weight", "post_attention_layernorm.weight"},
    NamePair{"ffn_norm.weight", "pre_feedforward_layernorm.weight"},
    NamePair{"post_ffw_norm.weight", "post_feedforward_layernorm.weight"},
};

// "ffn_gate_exps.weight" has all experts, older files have "ffn_gate.E.weight" for each.
constexpr std::array kExpertNames = {
    NamePair{"ffn_gate", "w1.weight"},
    NamePair{"ffn_down", "w2.weight"},
    NamePair{"ffn_up", "w3.weight"},
};

template <size_t N>
std::optional<std::string_view> Lookup(const std::array<NamePair, N>& names,
                                       std::string_view gguf) {
  for (const NamePair& pair : names) {
    if (pair.gguf == gguf) return pair.hugging_face;
  }
  return std::nullopt;
}

bool TakePrefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// A whole number below `end`, written as it would be printed, and a dot behind it.
std::optional<int64_t> TakeIndex(std::string_view& text, int64_t end) {
  const size_t dot = text.find('.');
  int64_t index = 0;
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string digits(text.substr(0, dot));
  if (!absl::SimpleAtoi(digits, &index) || index < 0 || index >= end ||
      absl::StrCat(index) != digits) {
    return std::nullopt;
  }
  text.remove_prefix(dot + 1);
  return index;
}

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
    RETURN_IF_ERROR(CheckReadable(slice, located));
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

  uint64_t bytes_read() const override { return bytes_read_; }

 private:
  struct Located {
    TensorInfo info;
    StoredTensor stored;
    std::string_view gguf_name;
    bool readable = false;  // stored in one of our data types
  };

  // False if the architecture has no such tensor.
  absl::StatusOr<bool> Add(const GgufTensor& tensor) {
    if (const auto name = Lookup(kModelNames, tensor.name)) {
      return AddNamed(std::string(*name), tensor, tensor.shape, tensor.data);
    }
    std::string_view rest = tensor.name;
    if (!TakePrefix(rest, "blk.")) return false;
    const std::optional<int64_t> layer = TakeIndex(rest, config_.num_layers);
    if (!layer.has_value()) return false;
    const std::string prefix = absl::StrCat("model.layers.", *layer, ".");
    auto name = Lookup(kLayerNames, rest);
    if (!name.has_value()) {
      name = config_.sandwich_norms ? Lookup(kSandwichNorms, rest) : Lookup(kPlainNorms, rest);
    }
    if (name.has_value()) {
      return AddNamed(prefix + std::string(*name), tensor, tensor.shape, tensor.data);
    }
    return AddExperts(prefix + "block_sparse_moe.experts.", rest, tensor);
  }

  absl::StatusOr<bool> AddExperts(const std::string& prefix, std::string_view rest,
                                  const GgufTensor& tensor) {
    for (const NamePair& pair : kExpertNames) {
      std::string_view behind = rest;
      if (!TakePrefix(behind, pair.gguf)) continue;
      const std::string name(pair.hugging_face);
      if (behind == "_exps.weight") return AddStacked(prefix, name, tensor);
      if (!TakePrefix(behind, ".")) continue;
      const std::optional<int64_t> expert = TakeIndex(behind, config_.num_experts);
      if (!expert.has_value() || behind != "weight") continue;
      return AddNamed(absl::StrCat(prefix, *expert, ".", name), tensor, tensor.shape, tensor.data);
    }
    return false;
  }

  // All experts of a layer: the first dimension.
  absl::StatusOr<bool> AddStacked(const std::string& prefix, const std::string& name,
                                  const GgufTensor& tensor) {
    if (config_.num_experts == 0) return false;
    if (tensor.shape.size() != 3 || tensor.shape[0] != config_.num_experts) {
      return absl::InvalidArgumentError(absl::StrCat(origin(), ": tensor ", Quoted(tensor.name),
                                                     " must have three dimensions, the first of ",
                                                     config_.num_experts, " experts"));
    }
    const std::vector<int64_t> shape(tensor.shape.begin() + 1, tensor.shape.end());
    const size_t bytes = tensor.data.size() / static_cast<size_t>(config_.num_experts);
    for (int64_t expert = 0; expert < config_.num_experts; ++expert) {
      ASSIGN_OR_RETURN(const bool added,
                       AddNamed(absl::StrCat(prefix, expert, ".", name), tensor, shape,
                                tensor.data.subspan(static_cast<size_t>(expert) * bytes, bytes)));
      if (!added) return false;
    }
    return true;
  }

  absl::StatusOr<bool> AddNamed(std::string name, const GgufTensor& tensor,
                                const std::vector<int64_t>& shape,
                                std::span<const std::byte> data) {
    const GgufType* type = FindGgufType(tensor.type);
    Located located;
    located.readable = type != nullptr && type->dtype.has_value();
    located.gguf_name = tensor.name;
    located.info = {.dtype = located.readable ? *type->dtype : DType::kF32,
                    .stored_type = GgufTypeName(tensor.type),
                    .shape = shape};
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

  absl::Status CheckReadable(const TensorSlice& slice, const Located& located) const {
    const bool quantised = located.readable && IsQuantized(located.info.dtype);
    if (located.readable && !(slice.is_vector && quantised)) return absl::OkStatus();
    std::string supported;
    for (const GgufType& type : GgufTypes()) {
      if (!type.dtype.has_value() || (slice.is_vector && IsQuantized(*type.dtype))) continue;
      absl::StrAppend(&supported, supported.empty() ? "" : ", ", std::string(type.name));
    }
    return absl::UnimplementedError(
        absl::StrCat(origin(), ": unsupported: tensor ", Quoted(located.gguf_name), " has type ",
                     located.info.stored_type, "; supported are ", supported));
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
  ASSIGN_OR_RETURN(ModelConfig config, GgufModelConfig(file));
  ASSIGN_OR_RETURN(const std::string_view architecture, file.String("general.architecture"));
  auto checkpoint = std::make_unique<Gguf>(std::move(file), std::move(config),
                                           /*interleaved=*/architecture == "llama");
  RETURN_IF_ERROR(checkpoint->AddTensors());
  return checkpoint;
}

}  // namespace trireme
