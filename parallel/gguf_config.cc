#include "parallel/gguf_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "parallel/gguf_types.h"

namespace trireme {
namespace {

// As for config.json.
constexpr int64_t kDimensionMax = 10'000'000;
constexpr int64_t kLayersMax = 4096;
constexpr int64_t kPositionsMax = int64_t{1} << 31;
constexpr double kRealMax = 1e15;

constexpr int64_t kExpertsMax = 1024;
constexpr double kRopeThetaDefault = 10000.0;
constexpr int64_t kGemma3WindowPattern = 6;  // five windowed layers, then one that sees all
constexpr int64_t kGemma3LayersOf27B = 62;

struct Architecture {
  std::string_view gguf_name;  // of general.architecture; keys begin with it
  std::string_view name;
  bool qkv_bias_always = false;
  bool qk_norm = false;
  bool gemma = false;
};

constexpr std::array kArchitectures = {
    Architecture{.gguf_name = "llama", .name = "LlamaForCausalLM"},
    Architecture{.gguf_name = "qwen2", .name = "Qwen2ForCausalLM", .qkv_bias_always = true},
    Architecture{.gguf_name = "qwen3", .name = "Qwen3ForCausalLM", .qk_norm = true},
    Architecture{
        .gguf_name = "gemma3", .name = "Gemma3ForCausalLM", .qk_norm = true, .gemma = true},
};

absl::StatusOr<const Architecture*> FindArchitecture(const GgufFile& file) {
  ASSIGN_OR_RETURN(const std::string_view name, file.String("general.architecture"));
  for (const Architecture& known : kArchitectures) {
    if (known.gguf_name == name) return &known;
  }
  const std::string supported = absl::StrJoin(
      kArchitectures, ", ",
      [](std::string* out, const Architecture& known) { out->append(known.gguf_name); });
  return absl::UnimplementedError(absl::StrCat(file.origin(),
                                               ": unsupported: general.architecture is ",
                                               Quoted(name), "; supported are: ", supported));
}

// Reads the keys of one architecture into a ModelConfig.
class ConfigReader {
 public:
  ConfigReader(const GgufFile& file, const Architecture& architecture)
      : file_(file), architecture_(architecture) {
    config_.architecture = architecture.name;
  }

  absl::StatusOr<ModelConfig> Read() {
    RETURN_IF_ERROR(RefuseUnsupported());
    RETURN_IF_ERROR(ReadDimensions());
    RETURN_IF_ERROR(CheckConsistent());
    RETURN_IF_ERROR(ReadVocabulary());
    ReadBiases();
    RETURN_IF_ERROR(ReadExperts());
    RETURN_IF_ERROR(ReadRope());
    RETURN_IF_ERROR(ReadRopeFactors());
    RETURN_IF_ERROR(ReadSlidingWindow());
    if (architecture_.gemma) SetGemma();
    return std::move(config_);
  }

 private:
  std::string Key(const char* name) const {
    return absl::StrCat(std::string(architecture_.gguf_name), ".", name);
  }

  absl::Status Invalid(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.origin(), ": ", what));
  }
  absl::Status Unsupported(const std::string& what) const {
    return absl::UnimplementedError(absl::StrCat(file_.origin(), ": unsupported: ", what));
  }

  // A number for all layers. Files may have it once or as a list with one for each layer.
  absl::StatusOr<int64_t> WholeOfLayers(const char* name,
                                        std::optional<int64_t> fallback = std::nullopt) const {
    const std::string key = Key(name);
    const GgufValue* value = file_.Find(key);
    const auto* list = value == nullptr ? nullptr : std::get_if<GgufList>(value);
    if (list == nullptr) return file_.Whole(key, 1, kDimensionMax, fallback);
    if (list->size != static_cast<uint64_t>(config_.num_layers)) {
      return Invalid(absl::StrCat(key, " is a list of ", list->size, " for ", config_.num_layers,
                                  " layers; it must have one number for each"));
    }
    ASSIGN_OR_RETURN(const std::vector<int64_t> numbers, file_.Wholes(key));
    const auto is_first = [&numbers](int64_t number) { return number == numbers.front(); };
    if (!std::all_of(numbers.begin(), numbers.end(), is_first)) {
      return Unsupported(absl::StrCat(key, " differs between layers"));
    }
    if (numbers.front() < 1 || numbers.front() > kDimensionMax) {
      return Invalid(absl::StrCat(key, " is ", numbers.front(),
                                  "; it must be a whole number from 1 to ", kDimensionMax));
    }
    return numbers.front();
  }

  // What would change the arithmetic in a way that no field of ModelConfig describes.
  absl::Status RefuseUnsupported() const {
    for (const char* name : {"attn_logit_softcapping", "final_logit_softcapping"}) {
      ASSIGN_OR_RETURN(const double cap, file_.Real(Key(name), 0, kRealMax, 0.0));
      if (cap != 0) return Unsupported(absl::StrCat(Key(name), " other than 0"));
    }
    ASSIGN_OR_RETURN(const bool causal, file_.Bool(Key("attention.causal"), true));
    if (!causal) return Unsupported("a model without causal attention; it does not generate text");
    return absl::OkStatus();
  }

  absl::Status ReadDimensions() {
    ASSIGN_OR_RETURN(config_.num_layers, file_.Whole(Key("block_count"), 1, kLayersMax));
    ASSIGN_OR_RETURN(config_.hidden_size, file_.Whole(Key("embedding_length"), 1, kDimensionMax));
    ASSIGN_OR_RETURN(config_.intermediate_size, WholeOfLayers("feed_forward_length"));
    ASSIGN_OR_RETURN(config_.num_heads, WholeOfLayers("attention.head_count"));
    ASSIGN_OR_RETURN(config_.num_kv_heads,
                     WholeOfLayers("attention.head_count_kv", config_.num_heads));
    ASSIGN_OR_RETURN(config_.max_position_embeddings,
                     file_.Whole(Key("context_length"), 1, kPositionsMax));
    ASSIGN_OR_RETURN(config_.rms_norm_eps,
                     file_.Real(Key("attention.layer_norm_rms_epsilon"), 1e-30, 1));
    config_.qk_norm = architecture_.qk_norm;
    const int64_t head_dim = config_.hidden_size / config_.num_heads;
    const bool known = head_dim > 0;
    ASSIGN_OR_RETURN(config_.head_dim, file_.Whole(Key("attention.key_length"), 1, kDimensionMax,
                                                   known ? std::optional(head_dim) : std::nullopt));
    // By key, the sizes that may differ in principle.
    for (const char* name :
         {"attention.value_length", "attention.key_length_swa", "attention.value_length_swa",
          "rope.dimension_count", "rope.dimension_count_swa"}) {
      ASSIGN_OR_RETURN(const int64_t size,
                       file_.Whole(Key(name), 1, kDimensionMax, config_.head_dim));
      if (size == config_.head_dim) continue;
      return Unsupported(absl::StrCat(Key(name), " is ", size, ", but a head of the keys has ",
                                      config_.head_dim, "; both must be equal"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckConsistent() const {
    if (config_.num_heads % config_.num_kv_heads != 0) {
      return Invalid(absl::StrCat(Key("attention.head_count"), " ", config_.num_heads,
                                  " is not a multiple of head_count_kv ", config_.num_kv_heads));
    }
    if (config_.head_dim % 2 != 0) {
      return Invalid(absl::StrCat(Key("attention.key_length"), " ", config_.head_dim,
                                  " is odd; rotary embedding turns pairs"));
    }
    // Each is at most 1e7, so the product cannot overflow.
    if (config_.num_heads * config_.head_dim > kDimensionMax) {
      return Invalid(absl::StrCat(Key("attention.head_count"), " x key_length is ",
                                  config_.num_heads * config_.head_dim, "; it must be at most ",
                                  kDimensionMax));
    }
    return absl::OkStatus();
  }

  absl::Status ReadVocabulary() {
    const GgufTensor* embedding = file_.FindTensor("token_embd.weight");
    if (embedding == nullptr) return Invalid("tensor \"token_embd.weight\" is missing");
    const std::vector<int64_t>& shape = embedding->shape;
    if (shape.size() != 2 || shape[1] != config_.hidden_size || shape[0] > kDimensionMax) {
      return Invalid(absl::StrCat("tensor \"token_embd.weight\" has shape [",
                                  absl::StrJoin(shape, ", "), "], expected [tokens, ",
                                  config_.hidden_size, "] with at most ", kDimensionMax,
                                  " tokens"));
    }
    config_.vocab_size = shape[0];
    ASSIGN_OR_RETURN(const auto tokens, file_.Strings("tokenizer.ggml.tokens"));
    if (!tokens.empty() && tokens.size() != static_cast<size_t>(config_.vocab_size)) {
      return Invalid(absl::StrCat("tokenizer.ggml.tokens has ", tokens.size(),
                                  " tokens, but \"token_embd.weight\" ", config_.vocab_size,
                                  " rows; they do not belong together"));
    }
    config_.tie_word_embeddings = file_.FindTensor("output.weight") == nullptr;
    return absl::OkStatus();
  }

  void ReadBiases() {
    config_.qkv_bias =
        architecture_.qkv_bias_always || file_.FindTensor("blk.0.attn_q.bias") != nullptr;
    config_.o_bias = file_.FindTensor("blk.0.attn_output.bias") != nullptr;
    config_.mlp_bias = file_.FindTensor("blk.0.ffn_gate.bias") != nullptr;
  }

  absl::Status ReadExperts() {
    ASSIGN_OR_RETURN(config_.num_experts, file_.Whole(Key("expert_count"), 0, kExpertsMax, 0));
    if (config_.num_experts == 0) return absl::OkStatus();
    if (architecture_.gguf_name != "llama") {
      return Unsupported(absl::StrCat(Key("expert_count"), " other than 0"));
    }
    ASSIGN_OR_RETURN(config_.num_experts_per_token,
                     file_.Whole(Key("expert_used_count"), 1, config_.num_experts));
    ASSIGN_OR_RETURN(const int64_t groups,
                     file_.Whole(Key("expert_group_count"), 0, kExpertsMax, 0));
    if (groups > 1) return Unsupported(absl::StrCat(Key("expert_group_count"), " above 1"));
    if (config_.num_experts * config_.intermediate_size > kDimensionMax) {
      return Invalid(absl::StrCat(Key("expert_count"), " x feed_forward_length is ",
                                  config_.num_experts * config_.intermediate_size,
                                  "; it must be at most ", kDimensionMax));
    }
    config_.architecture = "MixtralForCausalLM";
    return absl::OkStatus();
  }

  absl::Status ReadRope() {
    ASSIGN_OR_RETURN(config_.rope_theta,
                     file_.Real(Key("rope.freq_base"), 1e-6, kRealMax, kRopeThetaDefault));
    const std::string type_key = Key("rope.scaling.type");
    ASSIGN_OR_RETURN(const std::string_view type, file_.String(type_key, "linear"));
    const std::string attention_key = Key("rope.scaling.attn_factor");
    ASSIGN_OR_RETURN(config_.rope_attention_factor, file_.Real(attention_key, 1e-6, kRealMax, 1.0));
    // Windowed layers would have a part of it.
    if (architecture_.gemma && (type == "yarn" || config_.rope_attention_factor != 1)) {
      return Unsupported(absl::StrCat(type_key, " \"yarn\" and ", attention_key, " of gemma3"));
    }
    if (type == "none") return absl::OkStatus();
    if (type != "linear" && type != "yarn") {
      return Unsupported(
          absl::StrCat(type_key, " is ", Quoted(type), "; supported are: none, linear, yarn"));
    }
    // The second is the key's older name. 0 says that there is none.
    ASSIGN_OR_RETURN(const double old_factor, file_.Real(Key("rope.scale_linear"), 0, kRealMax, 0));
    ASSIGN_OR_RETURN(const double factor,
                     file_.Real(Key("rope.scaling.factor"), 0, kRealMax, old_factor));
    if (factor == 0 || factor == 1) return absl::OkStatus();
    if (factor < 1e-6) return Invalid(absl::StrCat(Key("rope.scaling.factor"), " is ", factor));
    config_.rope_factor = factor;
    if (type == "yarn") return ReadYarn();
    config_.rope_scaling = RopeScaling::kLinear;
    return absl::OkStatus();
  }

  absl::Status ReadYarn() {
    config_.rope_scaling = RopeScaling::kYarn;
    if (config_.rope_factor < 1) {
      return Invalid(absl::StrCat(Key("rope.scaling.factor"), " is ", config_.rope_factor,
                                  "; yarn needs one of at least 1"));
    }
    if (config_.rope_theta <= 1) {
      return Invalid(absl::StrCat(Key("rope.freq_base"), " is ", config_.rope_theta,
                                  "; yarn needs one above 1"));
    }
    ASSIGN_OR_RETURN(config_.rope_original_max_position,
                     file_.Whole(Key("rope.scaling.original_context_length"), 1, kPositionsMax,
                                 config_.max_position_embeddings));
    config_.max_position_embeddings = YarnMaxPosition(config_);
    const double attention_factor = YarnAttentionFactor(config_.rope_factor);
    config_.rope_attention_factor *= attention_factor;
    // The converter writes what it finds, and llama.cpp computes with these whatever it says. Where
    // they differ one of the two is wrong, and the file does not tell which.
    const std::pair<const char*, double> fixed[] = {
        {"rope.scaling.yarn_ext_factor", 1},
        {"rope.scaling.yarn_attn_factor", attention_factor},
        {"rope.scaling.yarn_beta_fast", config_.rope_beta_fast},
        {"rope.scaling.yarn_beta_slow", config_.rope_beta_slow},
        {"rope.scaling.yarn_log_multiplier", 0}};
    for (const auto& [name, want] : fixed) {
      ASSIGN_OR_RETURN(const double value, file_.Real(Key(name), -kRealMax, kRealMax, want));
      if (std::abs(value - want) <= 1e-4) continue;
      return Unsupported(absl::StrCat(Key(name), " is ", value, "; llama.cpp takes ", want));
    }
    return absl::OkStatus();
  }

  // Llama 3 scales each frequency by its wave length; its files hold the quotients.
  absl::Status ReadRopeFactors() {
    if (architecture_.gguf_name != "llama") return absl::OkStatus();
    const GgufTensor* factors = file_.FindTensor("rope_freqs.weight");
    if (factors == nullptr) return absl::OkStatus();
    const size_t count = static_cast<size_t>(config_.head_dim / 2);
    const GgufType* type = FindGgufType(factors->type);
    if (type == nullptr || type->dtype != DType::kF32 ||
        factors->data.size() != count * sizeof(float)) {
      return Invalid(absl::StrCat("tensor \"rope_freqs.weight\" is ", GgufTypeName(factors->type),
                                  " of shape [", absl::StrJoin(factors->shape, ", "),
                                  "], expected F32 of [", count, "]"));
    }
    config_.rope_freq_factors.resize(count);
    std::memcpy(config_.rope_freq_factors.data(), factors->data.data(), factors->data.size());
    for (const float factor : config_.rope_freq_factors) {
      if (!(factor > 0 && std::isfinite(factor))) {
        return Invalid("tensor \"rope_freqs.weight\" has a factor that is not above 0");
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadSlidingWindow() {
    // Qwen's files do not say which layers a window is for, and none of its models uses it.
    if (architecture_.gguf_name != "llama" && !architecture_.gemma) return absl::OkStatus();
    ASSIGN_OR_RETURN(const int64_t window,
                     file_.Whole(Key("attention.sliding_window"), 0, kPositionsMax, 0));
    if (window == 0) return absl::OkStatus();
    if (!architecture_.gemma) {
      if (config_.num_experts > 0) return Unsupported("a sliding window with experts");
      config_.architecture = "MistralForCausalLM";
      config_.sliding_window = window;
      config_.windowed_layers.assign(static_cast<size_t>(config_.num_layers), 1);
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(ReadWindowPattern());
    config_.sliding_window = window;
    ASSIGN_OR_RETURN(config_.rope_local_theta,
                     file_.Real(Key("rope.freq_base_swa"), 1e-6, kRealMax, kRopeThetaDefault));
    return absl::OkStatus();
  }

  // Either every n-th layer sees all (0: none does), or a list that says of each whether it has the
  // window.
  absl::Status ReadWindowPattern() {
    const std::string key = Key("attention.sliding_window_pattern");
    const size_t layers = static_cast<size_t>(config_.num_layers);
    const GgufValue* value = file_.Find(key);
    const auto* list = value == nullptr ? nullptr : std::get_if<GgufList>(value);
    std::vector<uint8_t> windowed;
    if (list != nullptr && list->size != layers) {
      return Invalid(absl::StrCat(key, " is a list of ", list->size, " for ", layers,
                                  " layers; it must have one value for each"));
    }
    if (list != nullptr) {
      ASSIGN_OR_RETURN(windowed, file_.Flags(key));
    } else {
      ASSIGN_OR_RETURN(const int64_t period, file_.Whole(key, 0, kLayersMax, kGemma3WindowPattern));
      for (size_t layer = 0; layer < layers; ++layer) {
        const int64_t place = static_cast<int64_t>(layer) + 1;
        windowed.push_back(period == 0 || place % period != 0);
      }
    }
    config_.windowed_layers = std::move(windowed);
    return absl::OkStatus();
  }

  // GGUF holds Gemma's norm weights with the 1 added, which safetensors files lack.
  void SetGemma() {
    config_.activation = Activation::kGeluTanh;
    config_.sandwich_norms = true;
    config_.norm_weights_minus_one = false;
    config_.embedding_scale = std::sqrt(static_cast<double>(config_.hidden_size));
    // query_pre_attn_scalar, which files do not hold: the head's size, but not in the largest.
    const int64_t scalar = config_.num_layers == kGemma3LayersOf27B
                               ? config_.hidden_size / config_.num_heads
                               : config_.head_dim;
    config_.attention_scale = 1.0 / std::sqrt(static_cast<double>(std::max<int64_t>(scalar, 1)));
  }

  const GgufFile& file_;
  const Architecture& architecture_;
  ModelConfig config_;
};

}  // namespace

absl::StatusOr<ModelConfig> GgufModelConfig(const GgufFile& file) {
  ASSIGN_OR_RETURN(const Architecture* architecture, FindArchitecture(file));
  return ConfigReader(file, *architecture).Read();
}

}  // namespace trireme
