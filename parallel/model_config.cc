#include "parallel/model_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "parallel/gguf_config.h"
#include "parallel/gguf_file.h"
#include "parallel/json_fields.h"
#include "parallel/quantization_config.h"

namespace trireme {
namespace {

using nlohmann::json;

constexpr size_t kConfigBytesMax = 16 << 20;
constexpr int64_t kDimensionMax = 10'000'000;
constexpr int64_t kLayersMax = 4096;
constexpr int64_t kPositionsMax = int64_t{1} << 31;
constexpr double kRealMax = 1e15;
constexpr int64_t kExpertsMax = 1024;

// What the transformers class of this architecture assumes where config.json is silent, and which
// parts of the shape it has at all.
struct Architecture {
  std::string_view name;
  int64_t max_position_embeddings;
  int64_t num_kv_heads = 0;  // 0: as many as num_attention_heads
  int64_t head_dim = 0;      // 0: hidden_size / num_attention_heads
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  bool tie_word_embeddings = false;
  bool qkv_bias_always = false;
  bool has_attention_bias = false;  // the key attention_bias, for q, k, v and o
  bool has_mlp_bias = false;        // the key mlp_bias
  bool qk_norm = false;
  enum class Window {
    kNone,
    kAllLayers,
    kAllLayersIfGiven,  // an absent key is null
    kFromLayer,         // from max_window_layers on, unless layer_types says which
    kPattern,           // all but each sliding_window_pattern-th, unless layer_types says which
  } window = Window::kNone;
  bool gemma = false;       // what Gemma alone does: ParseGemma
  bool experts = false;     // the feed-forward is a mixture
  bool quantizable = true;  // quantised checkpoints of it are read
};

using Window = Architecture::Window;

constexpr std::array kArchitectures = {
    Architecture{.name = "LlamaForCausalLM",
                 .max_position_embeddings = 2048,
                 .has_attention_bias = true,
                 .has_mlp_bias = true},
    Architecture{.name = "MistralForCausalLM",
                 .max_position_embeddings = 131072,
                 .num_kv_heads = 8,
                 .window = Window::kAllLayers},
    Architecture{.name = "Qwen2ForCausalLM",
                 .max_position_embeddings = 32768,
                 .num_kv_heads = 32,
                 .qkv_bias_always = true,
                 .window = Window::kFromLayer},
    Architecture{.name = "Qwen3ForCausalLM",
                 .max_position_embeddings = 32768,
                 .num_kv_heads = 32,
                 .head_dim = 128,
                 .has_attention_bias = true,
                 .qk_norm = true,
                 .window = Window::kFromLayer},
    Architecture{.name = "Gemma3ForCausalLM",
                 .max_position_embeddings = 131072,
                 .num_kv_heads = 4,
                 .head_dim = 256,
                 .rope_theta = 1e6,
                 .tie_word_embeddings = true,
                 .qk_norm = true,
                 .window = Window::kPattern,
                 .gemma = true,
                 .quantizable = false},
    Architecture{.name = "MixtralForCausalLM",
                 .max_position_embeddings = 131072,
                 .num_kv_heads = 8,
                 .rms_norm_eps = 1e-5,
                 .rope_theta = 1e6,
                 .window = Window::kAllLayersIfGiven,
                 .experts = true,
                 .quantizable = false},
};

// The same in all these classes.
constexpr int64_t kSlidingWindowDefault = 4096;
constexpr int64_t kMaxWindowLayersDefault = 28;
constexpr int64_t kWindowPatternDefault = 6;
constexpr double kRopeLocalThetaDefault = 10000.0;
constexpr double kQueryScalarDefault = 256;
constexpr int64_t kNumExpertsDefault = 8;
constexpr int64_t kExpertsPerTokenDefault = 2;

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

absl::Status ParseActivation(const JsonFields& fields, const Architecture& architecture,
                             ModelConfig& config) {
  const char* key = architecture.gemma ? "hidden_activation" : "hidden_act";
  const std::string_view accepted = architecture.gemma ? "gelu_pytorch_tanh" : "silu";
  config.activation = architecture.gemma ? Activation::kGeluTanh : Activation::kSilu;
  ASSIGN_OR_RETURN(const std::string activation, fields.String(key, accepted));
  if (activation == accepted) return absl::OkStatus();
  return Unsupported(fields, absl::StrCat(key, " ", JsonExcerpt(json(activation)), "; it must be ",
                                          JsonExcerpt(json(accepted))));
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
  ASSIGN_OR_RETURN(config.rms_norm_eps,
                   fields.PositiveReal("rms_norm_eps", 1, architecture.rms_norm_eps));
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
  ASSIGN_OR_RETURN(config.tie_word_embeddings,
                   fields.Bool("tie_word_embeddings", architecture.tie_word_embeddings));
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

// 0 says nothing, as transformers has it.
absl::StatusOr<double> RealOrNone(const JsonFields& fields, const char* key, double fallback) {
  const json* value = fields.Find(key);
  if (value != nullptr && *value == 0) return fallback;
  return fields.PositiveReal(key, kRealMax, fallback);
}

absl::Status ParseYarnRope(const JsonFields& rope, ModelConfig& config) {
  config.rope_scaling = RopeScaling::kYarn;
  ASSIGN_OR_RETURN(config.rope_factor, rope.PositiveReal("factor", kRealMax));
  if (config.rope_factor < 1) return rope.Invalid("factor", "it must be at least 1");
  if (config.rope_theta <= 1) return rope.Invalid("rope_theta", "yarn needs one above 1");
  ASSIGN_OR_RETURN(config.rope_original_max_position,
                   rope.Whole("original_max_position_embeddings", 1, kPositionsMax,
                              config.max_position_embeddings));
  config.max_position_embeddings = YarnMaxPosition(config);
  ASSIGN_OR_RETURN(config.rope_beta_fast, RealOrNone(rope, "beta_fast", config.rope_beta_fast));
  ASSIGN_OR_RETURN(config.rope_beta_slow, RealOrNone(rope, "beta_slow", config.rope_beta_slow));
  if (config.rope_beta_fast < config.rope_beta_slow) {
    return rope.Invalid("beta_fast", "it must not be below beta_slow");
  }
  ASSIGN_OR_RETURN(config.rope_truncate, rope.Bool("truncate", true));
  ASSIGN_OR_RETURN(const double mscale, RealOrNone(rope, "mscale", 0));
  ASSIGN_OR_RETURN(const double all_dim, RealOrNone(rope, "mscale_all_dim", 0));
  double attention_factor = YarnAttentionFactor(config.rope_factor);
  if (mscale > 0 && all_dim > 0) {
    attention_factor = YarnAttentionFactor(config.rope_factor, mscale) /
                       YarnAttentionFactor(config.rope_factor, all_dim);
  }
  ASSIGN_OR_RETURN(config.rope_attention_factor,
                   rope.PositiveReal("attention_factor", kRealMax, attention_factor));
  return absl::OkStatus();
}

// The frequencies of full layers. `theta` is what they have if `rope` is silent.
absl::Status ParseRopeValues(const JsonFields& rope, double theta, double rotary_part,
                             ModelConfig& config) {
  ASSIGN_OR_RETURN(config.rope_theta, rope.PositiveReal("rope_theta", kRealMax, theta));
  ASSIGN_OR_RETURN(const double part, rope.PositiveReal("partial_rotary_factor", 1, rotary_part));
  if (part != 1.0) return Unsupported(rope, "partial_rotary_factor other than 1");

  ASSIGN_OR_RETURN(const std::string old_type, rope.String("type", "default"));
  ASSIGN_OR_RETURN(const std::string type, rope.String("rope_type", old_type));
  if (type == "default") return absl::OkStatus();
  if (type == "llama3") return ParseLlama3Rope(rope, config);
  if (type == "yarn") return ParseYarnRope(rope, config);
  if (type == "linear") {
    config.rope_scaling = RopeScaling::kLinear;
    ASSIGN_OR_RETURN(config.rope_factor, rope.PositiveReal("factor", kRealMax));
    return absl::OkStatus();
  }
  return Unsupported(rope, absl::StrCat("type ", JsonExcerpt(json(type)),
                                        "; supported are: default, linear, llama3, yarn"));
}

// Gemma's windowed layers have a base of their own and no scaling.
absl::Status ParseLocalRope(const JsonFields& rope, double theta, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.rope_local_theta, rope.PositiveReal("rope_theta", kRealMax, theta));
  ASSIGN_OR_RETURN(const std::string type, rope.String("rope_type", "default"));
  if (type == "default") return absl::OkStatus();
  return Unsupported(rope, absl::StrCat("type ", JsonExcerpt(json(type)), "; it must be default"));
}

// The object of this key with its place in the file; an empty one if it is absent.
absl::StatusOr<JsonFields> Object(const JsonFields& fields, const char* key) {
  static const json* const kEmpty = new json(json::object());
  const json* found = fields.Find(key);
  if (found == nullptr) found = kEmpty;
  if (!found->is_object()) return fields.Invalid(key, "it must be an object or null");
  return JsonFields(*found, absl::StrCat(fields.origin(), ": ", key));
}

// transformers 4 writes rope_theta beside rope_scaling, transformers 5 both inside rope_parameters,
// for Gemma once for each type of layer.
absl::Status ParseRope(const JsonFields& fields, const Architecture& architecture,
                       ModelConfig& config) {
  ASSIGN_OR_RETURN(const double theta,
                   fields.PositiveReal("rope_theta", kRealMax, architecture.rope_theta));
  ASSIGN_OR_RETURN(const double local_theta,
                   fields.PositiveReal("rope_local_base_freq", kRealMax, kRopeLocalThetaDefault));
  ASSIGN_OR_RETURN(const double part, fields.PositiveReal("partial_rotary_factor", 1, 1.0));
  // As transformers 5 has it: the old key wins if it says anything.
  const json* scaling = fields.Find("rope_scaling");
  const bool old_key = scaling != nullptr && !scaling->empty();
  ASSIGN_OR_RETURN(const JsonFields rope,
                   Object(fields, old_key ? "rope_scaling" : "rope_parameters"));
  if (architecture.gemma && !old_key) {
    ASSIGN_OR_RETURN(const JsonFields full, Object(rope, "full_attention"));
    ASSIGN_OR_RETURN(const JsonFields local, Object(rope, "sliding_attention"));
    RETURN_IF_ERROR(ParseRopeValues(full, theta, part, config));
    return ParseLocalRope(local, local_theta, config);
  }
  if (rope.Has("full_attention") || rope.Has("sliding_attention")) {
    return Unsupported(rope, "parameters by layer type");
  }
  if (architecture.gemma) config.rope_local_theta = local_theta;
  RETURN_IF_ERROR(ParseRopeValues(rope, theta, part, config));
  // Versions of transformers differ in which of the two counts.
  constexpr const char* kOriginal = "original_max_position_embeddings";
  if (config.rope_scaling == RopeScaling::kYarn && fields.Has(kOriginal)) {
    return Unsupported(fields, absl::StrCat(kOriginal, "; it must be in rope_scaling"));
  }
  return absl::OkStatus();
}

// One for each layer, nonzero if it has the window.
absl::StatusOr<std::vector<uint8_t>> ParseLayerTypes(const JsonFields& fields, const json& types,
                                                     const ModelConfig& config) {
  constexpr const char* kKey = "layer_types";
  if (!types.is_array() || types.size() != static_cast<size_t>(config.num_layers)) {
    return fields.Invalid(kKey, absl::StrCat("it must be a list of ", config.num_layers,
                                             " strings, one for each layer"));
  }
  std::vector<uint8_t> windowed;
  for (const json& type : types) {
    if (type != "sliding_attention" && type != "full_attention") {
      return Unsupported(fields,
                         absl::StrCat("layer_types with ", JsonExcerpt(type),
                                      "; supported are: full_attention, sliding_attention"));
    }
    windowed.push_back(type == "sliding_attention" ? 1 : 0);
  }
  return windowed;
}

// The layers that would have the window if there is one.
absl::StatusOr<std::vector<uint8_t>> ParseWindowedLayers(const JsonFields& fields, Window kind,
                                                         const ModelConfig& config) {
  const size_t layers = static_cast<size_t>(config.num_layers);
  if (kind == Window::kAllLayers || kind == Window::kAllLayersIfGiven) {
    return std::vector<uint8_t>(layers, 1);
  }
  if (const json* types = fields.Find("layer_types"); types != nullptr) {
    return ParseLayerTypes(fields, *types, config);
  }
  std::vector<uint8_t> windowed(layers, 0);
  if (kind == Window::kPattern) {
    ASSIGN_OR_RETURN(const int64_t pattern,
                     fields.Whole("sliding_window_pattern", 1, kLayersMax, kWindowPatternDefault));
    for (size_t layer = 0; layer < layers; ++layer) {
      windowed[layer] = (layer + 1) % static_cast<size_t>(pattern) != 0 ? 1 : 0;
    }
    return windowed;
  }
  ASSIGN_OR_RETURN(const int64_t first,
                   fields.Whole("max_window_layers", 0, kDimensionMax, kMaxWindowLayersDefault));
  for (size_t layer = static_cast<size_t>(first); layer < layers; ++layer) windowed[layer] = 1;
  return windowed;
}

// Whether there is a window at all.
absl::StatusOr<bool> UsesWindow(const JsonFields& fields, Window kind) {
  switch (kind) {
    case Window::kNone:
      return false;
    case Window::kAllLayers:
      return !fields.IsNull("sliding_window");
    case Window::kAllLayersIfGiven:
      return fields.Has("sliding_window");
    case Window::kFromLayer: {
      ASSIGN_OR_RETURN(const bool enabled, fields.Bool("use_sliding_window", false));
      return enabled && !fields.IsNull("sliding_window");
    }
    case Window::kPattern:
      if (fields.IsNull("sliding_window")) {
        return fields.Invalid("sliding_window", "it must be a whole number");
      }
      return true;
  }
  return false;
}

absl::Status ParseSlidingWindow(const JsonFields& fields, const Architecture& architecture,
                                ModelConfig& config) {
  ASSIGN_OR_RETURN(const bool used, UsesWindow(fields, architecture.window));
  if (architecture.window == Window::kNone) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::vector<uint8_t> windowed,
                   ParseWindowedLayers(fields, architecture.window, config));
  const bool some = std::find(windowed.begin(), windowed.end(), 1) != windowed.end();
  if (!used && some && fields.Has("layer_types")) {
    return fields.Invalid("layer_types",
                          "sliding_attention needs use_sliding_window and sliding_window");
  }
  if (!used || !some) return absl::OkStatus();
  ASSIGN_OR_RETURN(config.sliding_window,
                   fields.Whole("sliding_window", 1, kPositionsMax, kSlidingWindowDefault));
  config.windowed_layers = std::move(windowed);
  return absl::OkStatus();
}

absl::Status ParseGemma(const JsonFields& fields, ModelConfig& config) {
  if (config.rope_scaling == RopeScaling::kYarn) return Unsupported(fields, "yarn for this model");
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (fields.Has(key)) return Unsupported(fields, absl::StrCat(key, "; it must be null"));
  }
  for (const char* key : {"use_bidirectional_attention", "attention_bias"}) {
    ASSIGN_OR_RETURN(const bool set, fields.Bool(key, false));
    if (set) return Unsupported(fields, absl::StrCat(key, "; it must be false"));
  }
  ASSIGN_OR_RETURN(const double query_scalar,
                   fields.PositiveReal("query_pre_attn_scalar", kRealMax, kQueryScalarDefault));
  config.attention_scale = 1.0 / std::sqrt(query_scalar);
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
  config.norm_weights_minus_one = true;
  config.sandwich_norms = true;
  return absl::OkStatus();
}

absl::Status ParseExperts(const JsonFields& fields, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.num_experts,
                   fields.Whole("num_local_experts", 1, kExpertsMax, kNumExpertsDefault));
  ASSIGN_OR_RETURN(config.num_experts_per_token,
                   fields.Whole("num_experts_per_tok", 1, config.num_experts,
                                std::min(kExpertsPerTokenDefault, config.num_experts)));
  if (config.num_experts * config.intermediate_size > kDimensionMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        fields.origin(), ": num_local_experts x intermediate_size is ",
        config.num_experts * config.intermediate_size, "; it must be at most ", kDimensionMax));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfig::Load(const std::filesystem::path& model) {
  if (IsGgufPath(model)) {
    ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(model));
    return GgufModelConfig(file);
  }
  std::error_code error;
  if (!std::filesystem::is_directory(model, error)) {
    return absl::NotFoundError(
        absl::StrCat(model.string(),
                     ": neither a directory nor a .gguf file; --model takes a Hugging Face "
                     "checkpoint directory or a GGUF file"));
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
  // How weights are stored is the checkpoint reader's affair; here it is only refused in time.
  ASSIGN_OR_RETURN(const QuantizationConfig quantization, QuantizationConfig::Parse(fields));
  if (quantization.method != QuantizationMethod::kNone && !architecture->quantizable) {
    return Unsupported(fields,
                       absl::StrCat("quantization_config of ", std::string(architecture->name),
                                    "; use the checkpoint in bf16, f16 or f32"));
  }
  ModelConfig config;
  config.architecture = architecture->name;
  RETURN_IF_ERROR(ParseDimensions(fields, *architecture, config));
  RETURN_IF_ERROR(CheckConsistent(fields, config));
  RETURN_IF_ERROR(ParseBiases(fields, *architecture, config));
  RETURN_IF_ERROR(ParseActivation(fields, *architecture, config));
  RETURN_IF_ERROR(ParseRope(fields, *architecture, config));
  RETURN_IF_ERROR(ParseSlidingWindow(fields, *architecture, config));
  if (architecture->gemma) RETURN_IF_ERROR(ParseGemma(fields, config));
  if (architecture->experts) RETURN_IF_ERROR(ParseExperts(fields, config));
  return config;
}

double YarnAttentionFactor(double rope_factor, double mscale) {
  return rope_factor <= 1 ? 1.0 : 0.1 * mscale * std::log(rope_factor) + 1.0;
}

int64_t YarnMaxPosition(const ModelConfig& config) {
  const double stretched =
      static_cast<double>(config.rope_original_max_position) * config.rope_factor;
  return std::max(config.max_position_embeddings,
                  static_cast<int64_t>(std::min(stretched, static_cast<double>(kPositionsMax))));
}

// The bounds of Parse keep every product below 2^63.
uint64_t ModelConfig::NumParameters() const {
  const int64_t q_size = num_heads * head_dim;
  const int64_t kv_size = num_kv_heads * head_dim;
  int64_t layer = (sandwich_norms ? 4 : 2) * hidden_size;         // the norms
  layer += 2 * hidden_size * q_size + 2 * hidden_size * kv_size;  // q and o, k and v
  // gate, up, down; of each expert, and the router
  layer += 3 * hidden_size * intermediate_size * std::max<int64_t>(num_experts, 1);
  layer += num_experts * hidden_size;
  if (qkv_bias) layer += q_size + 2 * kv_size;
  if (o_bias) layer += hidden_size;
  if (mlp_bias) layer += 2 * intermediate_size + hidden_size;
  if (qk_norm) layer += 2 * head_dim;
  const int64_t embeddings = vocab_size * hidden_size * (tie_word_embeddings ? 1 : 2);
  return static_cast<uint64_t>(num_layers * layer + embeddings + hidden_size);
}

}  // namespace trireme
