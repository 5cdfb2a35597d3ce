#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

enum class RopeScaling { kNone, kLinear, kLlama3 };

// The shape of a decoder-only transformer: what is there to be sharded. Plain data, read from a
// Hugging Face config.json. Sizes are in elements.
struct ModelConfig {
  std::string architecture;  // for example "LlamaForCausalLM"
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-5;

  double rope_theta = 10000.0;
  RopeScaling rope_scaling = RopeScaling::kNone;
  double rope_factor = 1.0;  // linear and llama3
  double rope_low_freq_factor = 1.0;
  double rope_high_freq_factor = 4.0;
  int64_t rope_original_max_position = 0;

  bool tie_word_embeddings = false;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;                    // RMSNorm over head_dim on queries and keys (Qwen3)
  int64_t sliding_window = 0;              // tokens a query sees, itself included; 0 sees all
  int64_t sliding_window_first_layer = 0;  // layers before it see all (Qwen2's max_window_layers)

  // Reads DIR/config.json. The error names the file, the key, and what would be accepted.
  static absl::StatusOr<ModelConfig> Load(const std::filesystem::path& dir);
  // Parses the text of a config.json; `origin` names it in errors.
  static absl::StatusOr<ModelConfig> Parse(std::string_view json, std::string_view origin);

  uint64_t NumParameters() const;
};

}  // namespace trireme
