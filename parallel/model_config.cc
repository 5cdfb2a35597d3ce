#include "parallel/model_config.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "parallel/gguf_config.h"
#include "parallel/gguf_file.h"
#include "parallel/json_fields.h"

namespace trireme {
namespace {

using nlohmann::json;

constexpr size_t kConfigBytesMax = 16 << 20;
constexpr int64_t kDimensionMax = 10'000'000;
constexpr int64_t kLayersMax = 4096;
constexpr int64_t kPositionsMax = int64_t{1} << 31;
constexpr double kRealMax = 1e15;

// What the transformers class of this architecture assumes where config.json is silent, and which
// parts of the shape it has at all.
struct Architecture {
  std::string_view name;
  int64_t max_position_embeddings;
  int64_t num_kv_heads;  // 0: as many as num_attention_heads
  int64_t head_dim;      // 0: hidden_size / num_attention_heads
  bool qkv_bias_always;
  bool has_attention_bias;  // the key attention_bias, for q, k, v and o
  bool has_mlp_bias;        // the key mlp_bias
  bool qk_norm;
  enum class Window { kNone, kAllLayers, kFromLayer } window;
};

using Window = Architecture::Window;

constexpr std::array kArchitectures = {
    Architecture{.name = "LlamaForCausalLM",
                 .max_position_embeddings = 2048,
                 .num_kv_heads = 0,
                 .head_dim = 0,
                 .qkv_bias_always = false,
                 .has_attention_bias = true,
                 .has_mlp_bias = true,
                 .qk_norm = false,
                 .window = Window::kNone},
    Architecture{.name = "MistralForCausalLM",
                 .max_position_embeddings = 131072,
                 .num_kv_heads = 8,
                 .head_dim = 0,
                 .qkv_bias_always = false,
                 .has_attention_bias = false,
                 .has_mlp_bias = false,
                 .qk_norm = false,
                 .window = Window::kAllLayers},
    Architecture{.name = "Qwen2ForCausalLM",
                 .max_position_embeddings = 32768,
                 .num_kv_heads = 32,
                 .head_dim = 0,
                 .qkv_bias_always = true,
                 .has_attention_bias = false,
                 .has_mlp_bias = false,
                 .qk_norm = false,
                 .window = Window::kFromLayer},
    Architecture{.name = "Qwen3ForCausalLM",
                 .max_position_embeddings = 32768,
                 .num_kv_heads = 32,
                 .head_dim = 128,
                 .qkv_bias_always = false,
                 .has_attention_bias = true,
                 .has_mlp_bias = false,
                 .qk_norm = true,
                 .window = Window::kFromLayer},
};

// The same in all four transformers classes.
constexpr double kRmsNormEpsDefault = 1e-6;
constexpr double kRopeThetaDefault = 10000.0;
constexpr int64_t kSlidingWindowDefault = 4096;
constexpr int64_t kMaxWindowLayersDefault = 28;

absl::Status Unsupported(const JsonFields& fields, std::string_view what) {
  return absl::UnimplementedError(
      absl::StrCat(fields.origin(), ": unsupported: ", std::string(what)));
}

absl::StatusOr<const Architecture*> FindArchitecture(const JsonFields& fields) {
  const std::string supported =
      absl::StrJoin(kArchitectures, ", ",
                    [](std::string* out, const Architecture& known) { out->append(known.name); });
  const json* names = fields.Find("architectures");
  if (names == nullptr || !names->is_array() || names->size() != 1 || !names->at(0).is_string()) {
    return fields.Invalid("architectures",
                          absl::StrCat("it must be a list of one of: ", supported));
  }
  for (const Architecture& known : kArchitectures) {
    if (names->at(0).get_ref<const std::string&>() == known.name) return &known;
  }
  return Unsupported(fields, absl::StrCat("architecture ", JsonExcerpt(names->at(0)),
                                          "; supported are: ", supported));
}

// What would change the arithmetic in a way that no field of ModelConfig describes.
absl::Status RefuseUnsupported(const JsonFields& fields) {
  if (fields.Has("quantization_config")) {
    return Unsupported(fields, "quantization_config; use the checkpoint in bf16, f16 or f32");
  }
  ASSIGN_OR_RETURN(const std::string activation, fields.String("hidden_act", "silu"));
  if (activation != "silu") {
    return Unsupported(fields, absl::StrCat("hidden_act ", JsonExcerpt(json(activation)),
                                            "; it must be \"silu\""));
  }
  return absl::OkStatus();
}

absl::Status ParseDimensions(const JsonFields& fields, const Architecture& architecture,
                             ModelConfig& config) {
  ASSIGN_OR_RETURN(config.hidden_size, fields.Whole("hidden_size", 1, kDimensionMax));
  ASSIGN_OR_RETURN(config.intermediate_size, fields.Whole("intermediate_size", 1, kDimensionMax));
  ASSIGN_OR_RETURN(config.num_layers, fields.Whole("num_hidden_layers", 1, kLayersMax));
  ASSIGN_OR_RETURN(config.num_heads, fields.Whole("num_attention_heads", 1, kDimensionMax));
  ASSIGN_OR_RETURN(config.vocab_size, fields.Whole("vocab_size", 1, kDimensionMax));
  ASSIGN_OR_RETURN(config.max_position_embeddings,
                   fields.Whole("max_position_embeddings", 1, kPositionsMax,
                                architecture.max_position_embeddings));
  ASSIGN_OR_RETURN(config.rms_norm_eps, fields.PositiveReal("rms_norm_eps", 1, kRmsNormEpsDefault));
  // transformers tells an absent key (the class's default) from null (no grouping).
  const bool grouped = architecture.num_kv_heads > 0 && !fields.IsNull("num_key_value_heads");
  ASSIGN_OR_RETURN(config.num_kv_heads,
                   fields.Whole("num_key_value_heads", 1, kDimensionMax,
                                grouped ? architecture.num_kv_heads : config.num_heads));
  if (architecture.head_dim == 0 && !fields.Has("head_dim") &&
      config.hidden_size % config.num_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(fields.origin(), ": hidden_size ",
                                                   config.hidden_size,
                                                   " is not a multiple of num_attention_heads ",
                                                   config.num_heads, ", and head_dim is missing"));
  }
  ASSIGN_OR_RETURN(config.head_dim,
                   fields.Whole("head_dim", 1, kDimensionMax,
                                architecture.head_dim > 0 ? architecture.head_dim
                                                          : config.hidden_size / config.num_heads));
  return absl::OkStatus();
}

absl::Status CheckConsistent(const JsonFields& fields, const ModelConfig& config) {
  if (config.num_heads % config.num_kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.origin(), ": num_attention_heads ", config.num_heads,
                     " is not a multiple of num_key_value_heads ", config.num_kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(fields.origin(), ": head_dim ", config.head_dim,
                                                   " is odd; rotary embedding turns pairs"));
  }
  // Each is at most 1e7, so the product cannot overflow.
  if (config.num_heads * config.head_dim > kDimensionMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.origin(), ": num_attention_heads x head_dim is ",
                     config.num_heads * config.head_dim, "; it must be at most ", kDimensionMax));
  }
  return absl::OkStatus();
}

absl::Status ParseBiases(const JsonFields& fields, const Architecture& architecture,
                         ModelConfig& config) {
  config.qkv_bias = architecture.qkv_bias_always;
  if (architecture.has_attention_bias) {
    ASSIGN_OR_RETURN(config.qkv_bias, fields.Bool("attention_bias", false));
    config.o_bias = config.qkv_bias;
  }
  if (architecture.has_mlp_bias) {
    ASSIGN_OR_RETURN(config.mlp_bias, fields.Bool("mlp_bias", false));
  }
  config.qk_norm = architecture.qk_norm;
  ASSIGN_OR_RETURN(config.tie_word_embeddings, fields.Bool("tie_word_embeddings", false));
  return absl::OkStatus();
}

absl::Status ParseLlama3Rope(const JsonFields& rope, ModelConfig& config) {
  config.rope_scaling = RopeScaling::kLlama3;
  ASSIGN_OR_RETURN(config.rope_factor, rope.PositiveReal("factor", kRealMax));
  ASSIGN_OR_RETURN(config.rope_low_freq_factor, rope.PositiveReal("low_freq_factor", kRealMax));
  ASSIGN_OR_RETURN(config.rope_high_freq_factor, rope.PositiveReal("high_freq_factor", kRealMax));
  ASSIGN_OR_RETURN(config.rope_original_max_position,
                   rope.Whole("original_max_position_embeddings", 1, kPositionsMax,
                              config.max_position_embeddings));
  if (config.rope_high_freq_factor <= config.rope_low_freq_factor) {
    return rope.Invalid("high_freq_factor", "it must be above low_freq_factor");
  }
  return absl::OkStatus();
}

// transformers 4 writes rope_theta beside rope_scaling, transformers 5 both inside rope_parameters.
absl::Status ParseRope(const JsonFields& fields, ModelConfig& config) {
  ASSIGN_OR_RETURN(const double theta,
                   fields.PositiveReal("rope_theta", kRealMax, kRopeThetaDefault));
  // As transformers 5 has it: the old key wins if it says anything.
  const json* scaling = fields.Find("rope_scaling");
  const bool old_key = scaling != nullptr && !scaling->empty();
  const char* key = old_key ? "rope_scaling" : "rope_parameters";
  const json empty = json::object();
  const json* found = fields.Find(key);
  if (found == nullptr) found = &empty;
  if (!found->is_object()) return fields.Invalid(key, "it must be an object or null");
  for (const json& value : *found) {
    if (value.is_object()) return Unsupported(fields, absl::StrCat(key, " by layer type"));
  }

  const JsonFields rope(*found, absl::StrCat(fields.origin(), ": ", key));
  ASSIGN_OR_RETURN(config.rope_theta, rope.PositiveReal("rope_theta", kRealMax, theta));
  ASSIGN_OR_RETURN(const double outer_part, fields.PositiveReal("partial_rotary_factor", 1, 1.0));
  ASSIGN_OR_RETURN(const double part, rope.PositiveReal("partial_rotary_factor", 1, outer_part));
  if (part != 1.0) return Unsupported(fields, "partial_rotary_factor other than 1");

  ASSIGN_OR_RETURN(const std::string old_type, rope.String("type", "default"));
  ASSIGN_OR_RETURN(const std::string type, rope.String("rope_type", old_type));
  if (type == "default") return absl::OkStatus();
  if (type == "llama3") return ParseLlama3Rope(rope, config);
  if (type == "linear") {
    config.rope_scaling = RopeScaling::kLinear;
    ASSIGN_OR_RETURN(config.rope_factor, rope.PositiveReal("factor", kRealMax));
    return absl::OkStatus();
  }
  return Unsupported(fields, absl::StrCat(key, " of type ", JsonExcerpt(json(type)),
                                          "; supported are: default, linear, llama3"));
}

// The first layer with a window according to layer_types, which must be full layers and then
// windowed ones; num_layers if none has a window.
absl::StatusOr<int64_t> FirstWindowLayer(const JsonFields& fields, const json& types,
                                         const ModelConfig& config) {
  constexpr const char* kKey = "layer_types";
  if (!types.is_array() || types.size() != static_cast<size_t>(config.num_layers)) {
    return fields.Invalid(kKey, absl::StrCat("it must be a list of ", config.num_layers,
                                             " strings, one for each layer"));
  }
  int64_t first = config.num_layers;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const json& type = types[static_cast<size_t>(layer)];
    if (type == "sliding_attention") {
      if (first == config.num_layers) first = layer;
    } else if (type != "full_attention") {
      return Unsupported(fields,
                         absl::StrCat("layer_types with ", JsonExcerpt(type),
                                      "; supported are: full_attention, sliding_attention"));
    } else if (first != config.num_layers) {
      return Unsupported(fields, "layer_types with full_attention after sliding_attention");
    }
  }
  return first;
}

absl::Status ParseSlidingWindow(const JsonFields& fields, const Architecture& architecture,
                                ModelConfig& config) {
  if (architecture.window == Window::kNone) return absl::OkStatus();
  bool used = !fields.IsNull("sliding_window");
  int64_t first = 0;
  if (architecture.window == Window::kFromLayer) {
    ASSIGN_OR_RETURN(const bool enabled, fields.Bool("use_sliding_window", false));
    used = used && enabled;
    ASSIGN_OR_RETURN(first,
                     fields.Whole("max_window_layers", 0, kDimensionMax, kMaxWindowLayersDefault));
    if (const json* types = fields.Find("layer_types"); types != nullptr) {
      ASSIGN_OR_RETURN(first, FirstWindowLayer(fields, *types, config));
      if (!used && first < config.num_layers) {
        return fields.Invalid("layer_types",
                              "sliding_attention needs use_sliding_window and sliding_window");
      }
    }
  }
  if (!used || first >= config.num_layers) return absl::OkStatus();
  ASSIGN_OR_RETURN(config.sliding_window,
                   fields.Whole("sliding_window", 1, kPositionsMax, kSlidingWindowDefault));
  config.windowed_layers.assign(static_cast<size_t>(config.num_layers), 0);
  std::fill(config.windowed_layers.begin() + first, config.windowed_layers.end(), 1);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfig::Load(const std::filesystem::path& model) {
  if (IsGgufPath(model)) {
    ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(model));
    return GgufModelConfig(file);
  }
  const std::filesystem::path path = model / "config.json";
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kConfigBytesMax));
  return Parse(text, path.string());
}

absl::StatusOr<ModelConfig> ModelConfig::Parse(std::string_view text, std::string_view origin) {
  const json root = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(origin), ": not a JSON object"));
  }
  const JsonFields fields(root, origin);
  ASSIGN_OR_RETURN(const Architecture* architecture, FindArchitecture(fields));
  RETURN_IF_ERROR(RefuseUnsupported(fields));
  ModelConfig config;
  config.architecture = architecture->name;
  RETURN_IF_ERROR(ParseDimensions(fields, *architecture, config));
  RETURN_IF_ERROR(CheckConsistent(fields, config));
  RETURN_IF_ERROR(ParseBiases(fields, *architecture, config));
  RETURN_IF_ERROR(ParseRope(fields, config));
  RETURN_IF_ERROR(ParseSlidingWindow(fields, *architecture, config));
  return config;
}

// The bounds of Parse keep every product below 2^63.
uint64_t ModelConfig::NumParameters() const {
  const int64_t q_size = num_heads * head_dim;
  const int64_t kv_size = num_kv_heads * head_dim;
  int64_t layer = 2 * hidden_size;                                // the two norms
  layer += 2 * hidden_size * q_size + 2 * hidden_size * kv_size;  // q and o, k and v
  layer += 3 * hidden_size * intermediate_size;                   // gate, up, down
  if (qkv_bias) layer += q_size + 2 * kv_size;
  if (o_bias) layer += hidden_size;
  if (mlp_bias) layer += 2 * intermediate_size + hidden_size;
  if (qk_norm) layer += 2 * head_dim;
  const int64_t embeddings = vocab_size * hidden_size * (tie_word_embeddings ? 1 : 2);
  return static_cast<uint64_t>(num_layers * layer + embeddings + hidden_size);
}

}  // namespace trireme
