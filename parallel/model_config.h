#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

enum class RopeScaling { kNone, kLinear, kLlama3, kYarn };

// The gate's activation in the feed-forward: silu(x) or, in Gemma, gelu(x) by its tanh
// approximation.
enum class Activation { kSilu, kGeluTanh };

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
  double rope_factor = 1.0;  // of each kind of scaling
  double rope_low_freq_factor = 1.0;
  double rope_high_freq_factor = 4.0;
  int64_t rope_original_max_position = 0;  // llama3 and yarn: before scaling
  // yarn: turns within the original context from which on a pair is not scaled, and below which it
  // is fully; whether these are rounded to whole pairs.
  double rope_beta_fast = 32.0;
  double rope_beta_slow = 1.0;
  bool rope_truncate = true;
  double rope_attention_factor = 1.0;  // of cosines and sines

  bool tie_word_embeddings = false;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // RMSNorm over head_dim on queries and keys (Qwen3, Gemma 3)

  int64_t sliding_window =
      0;  // tokens a query sees in windowed layers, itself included; 0: none is
  // One for each layer: nonzero if it has the window. Empty: all have it, if there is one.
  std::vector<uint8_t> windowed_layers;
  // Rotary base of windowed layers, without the scaling above; 0: as the others (Gemma 3: 10000).
  double rope_local_theta = 0;
  // Divides each of the head_dim / 2 rotary frequencies (GGUF's rope_freqs.weight); empty: none.
  std::vector<float> rope_freq_factors;

  Activation activation = Activation::kSilu;
  double embedding_scale = 1.0;  // of the input embeddings (Gemma: sqrt(hidden_size))
  double attention_scale = 0;    // of q . k; 0: 1 / sqrt(head_dim)
  bool norm_weights_minus_one =
      false;                    // RMSNorm weights are stored as w - 1 (Gemma in safetensors)
  bool sandwich_norms = false;  // norms also behind attention and feed-forward (Gemma 3)

  int64_t num_experts = 0;  // mixture of experts (Mixtral); 0: dense
  int64_t num_experts_per_token = 0;

  // The window of a layer in tokens; 0: it sees all.
  int64_t LayerWindow(int64_t layer) const {
    const bool windowed = windowed_layers.empty() || windowed_layers[static_cast<size_t>(layer)];
    return windowed ? sliding_window : 0;
  }

  // Reads MODEL/config.json or, if MODEL is a .gguf file, its metadata. The error names the file,
  // the key, and what would be accepted.
  static absl::StatusOr<ModelConfig> Load(const std::filesystem::path& model);
  // Parses the text of a config.json; `origin` names it in errors.
  static absl::StatusOr<ModelConfig> Parse(std::string_view json, std::string_view origin);

  uint64_t NumParameters() const;
};

// YaRN's default of rope_attention_factor.
double YarnAttentionFactor(double rope_factor, double mscale = 1.0);
// YaRN's context is that of the training times the factor, also where the model's file still says
// the former.
int64_t YarnMaxPosition(const ModelConfig& config);

}  // namespace trireme
