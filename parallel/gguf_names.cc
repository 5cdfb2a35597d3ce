#include "parallel/gguf_names.h"

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

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

GgufNames One(std::string name) { return {.names = {std::move(name)}}; }

GgufNames ExpertNames(const std::string& prefix, std::string_view rest, const ModelConfig& config) {
  for (const NamePair& pair : kExpertNames) {
    std::string_view behind = rest;
    if (!TakePrefix(behind, pair.gguf)) continue;
    if (behind == "_exps.weight") {
      GgufNames all{.names = {}, .stacked = true};
      for (int64_t expert = 0; expert < config.num_experts; ++expert) {
        all.names.push_back(absl::StrCat(prefix, expert, ".", std::string(pair.hugging_face)));
      }
      return all;
    }
    if (!TakePrefix(behind, ".")) continue;
    const std::optional<int64_t> expert = TakeIndex(behind, config.num_experts);
    if (!expert.has_value() || behind != "weight") continue;
    return One(absl::StrCat(prefix, *expert, ".", std::string(pair.hugging_face)));
  }
  return {};
}

}  // namespace

GgufNames HuggingFaceNames(std::string_view gguf, const ModelConfig& config) {
  if (const auto name = Lookup(kModelNames, gguf)) return One(std::string(*name));
  std::string_view rest = gguf;
  if (!TakePrefix(rest, "blk.")) return {};
  const std::optional<int64_t> layer = TakeIndex(rest, config.num_layers);
  if (!layer.has_value()) return {};
  const std::string prefix = absl::StrCat("model.layers.", *layer, ".");
  auto name = Lookup(kLayerNames, rest);
  if (!name.has_value()) {
    name = config.sandwich_norms ? Lookup(kSandwichNorms, rest) : Lookup(kPlainNorms, rest);
  }
  if (name.has_value()) return One(prefix + std::string(*name));
  return ExpertNames(prefix + "block_sparse_moe.experts.", rest, config);
}

}  // namespace trireme
