// Shapes of public models as their config.json states them, their published parameter counts, and
// everything a config.json can have wrong.

#include "parallel/model_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace trireme {
namespace {

using nlohmann::json;

json Llama(int hidden, int inner, int layers, int heads, int kv_heads, int vocab, bool tied) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"hidden_act", "silu"},
          {"hidden_size", hidden},
          {"intermediate_size", inner},
          {"num_hidden_layers", layers},
          {"num_attention_heads", heads},
          {"num_key_value_heads", kv_heads},
          {"vocab_size", vocab},
          {"max_position_embeddings", 4096},
          {"rms_norm_eps", 1e-5},
          {"tie_word_embeddings", tied},
          {"torch_dtype", "bfloat16"}};
}

json As(const char* architecture, json config) {
  config["architectures"] = {architecture};
  return config;
}

json With(json config, const char* key, json value) {
  config[key] = std::move(value);
  return config;
}

json Without(json config, const char* key) {
  config.erase(key);
  return config;
}

json Gemma3(int hidden, int inner, int layers, int vocab) {
  json config = As("Gemma3ForCausalLM", Llama(hidden, inner, layers, 4, 1, vocab, true));
  config["hidden_activation"] = "gelu_pytorch_tanh";
  return Without(config, "tie_word_embeddings");
}

json Mixtral(int hidden, int inner, int layers, int heads) {
  return As("MixtralForCausalLM", Llama(hidden, inner, layers, heads, 8, 32000, false));
}

absl::StatusOr<ModelConfig> Parse(const json& config) {
  return ModelConfig::Parse(config.dump(), "x/config.json");
}

TEST(ModelConfig, CountsParametersOfPublicModels) {
  const auto count = [](const json& config) {
    const auto parsed = Parse(config);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed.ok() ? parsed->NumParameters() : 0;
  };
  EXPECT_EQ(count(Llama(2048, 8192, 16, 32, 8, 128256, true)), 1'235'814'400u);    // Llama 3.2 1B
  EXPECT_EQ(count(Llama(4096, 11008, 32, 32, 32, 32000, false)), 6'738'415'616u);  // Llama 2 7B
  EXPECT_EQ(count(Llama(4096, 14336, 32, 32, 8, 128256, false)), 8'030'261'248u);  // Llama 3.1 8B
  EXPECT_EQ(count(As("MistralForCausalLM", Llama(4096, 14336, 32, 32, 8, 32000, false))),
            7'241'732'096u);  // Mistral 7B v0.1
  EXPECT_EQ(count(As("Qwen2ForCausalLM", Llama(896, 4864, 24, 14, 2, 151936, true))),
            494'032'768u);  // Qwen2.5 0.5B
  EXPECT_EQ(count(As("Qwen2ForCausalLM", Llama(3584, 18944, 28, 28, 4, 152064, false))),
            7'615'616'512u);  // Qwen2.5 7B
  EXPECT_EQ(count(As("Qwen3ForCausalLM",
                     With(Llama(1024, 3072, 28, 16, 8, 151936, true), "head_dim", 128))),
            596'049'920u);                                           // Qwen3 0.6B
  EXPECT_EQ(count(Gemma3(640, 2048, 18, 262144)), 268'098'176u);     // Gemma 3 270M
  EXPECT_EQ(count(Gemma3(1152, 6912, 26, 262144)), 999'885'952u);    // Gemma 3 1B
  EXPECT_EQ(count(Mixtral(4096, 14336, 32, 32)), 46'702'792'704u);   // Mixtral 8x7B
  EXPECT_EQ(count(Mixtral(6144, 16384, 56, 48)), 140'620'634'112u);  // Mixtral 8x22B
}

TEST(ModelConfig, ReadsBothStylesOfRope) {
  json old_style = Llama(64, 96, 2, 4, 2, 100, true);
  old_style["rope_theta"] = 500000.0;
  old_style["rope_scaling"] = {{"rope_type", "llama3"},
                               {"factor", 32.0},
                               {"low_freq_factor", 1.0},
                               {"high_freq_factor", 4.0},
                               {"original_max_position_embeddings", 8192}};
  json new_style = Llama(64, 96, 2, 4, 2, 100, true);
  new_style["rope_parameters"] = old_style["rope_scaling"];
  new_style["rope_parameters"]["rope_theta"] = 500000.0;
  for (const json& config : {old_style, new_style}) {
    const auto parsed = Parse(config);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->rope_theta, 500000.0);
    EXPECT_EQ(parsed->rope_scaling, RopeScaling::kLlama3);
    EXPECT_EQ(parsed->rope_factor, 32.0);
    EXPECT_EQ(parsed->rope_original_max_position, 8192);
  }
}

TEST(ModelConfig, FamiliesDifferInTheirFlags) {
  const json base = Llama(64, 96, 2, 4, 2, 100, true);
  EXPECT_FALSE(Parse(base)->qkv_bias);
  EXPECT_TRUE(Parse(With(base, "attention_bias", true))->o_bias);
  EXPECT_TRUE(Parse(As("Qwen2ForCausalLM", base))->qkv_bias);
  EXPECT_FALSE(Parse(As("Qwen2ForCausalLM", base))->o_bias);
  EXPECT_TRUE(Parse(As("Qwen3ForCausalLM", base))->qk_norm);
  EXPECT_EQ(Parse(As("Qwen3ForCausalLM", base))->head_dim, 128);
  EXPECT_EQ(Parse(As("MistralForCausalLM", With(base, "sliding_window", 12)))->sliding_window, 12);
  EXPECT_EQ(Parse(As("MistralForCausalLM", With(base, "sliding_window", nullptr)))->sliding_window,
            0);
}

// The first layer with the window, and the window: what transformers 5 makes of the same keys.
TEST(ModelConfig, SlidingWindowsAreThoseOfTheFamily) {
  const auto window = [](const json& config) {
    const auto parsed = Parse(config);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    int64_t first = 0;
    while (first < parsed->num_layers && parsed->LayerWindow(first) == 0) ++first;
    return std::pair(parsed->sliding_window == 0 ? 0 : first, parsed->sliding_window);
  };
  using Window = std::pair<int64_t, int64_t>;
  const json base = Llama(64, 96, 4, 4, 2, 100, true);
  EXPECT_EQ(window(With(base, "sliding_window", 12)), (Window{0, 0}));  // Llama has none
  EXPECT_EQ(window(As("MistralForCausalLM", base)), (Window{0, 4096}));
  for (const char* family : {"Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    json qwen = With(As(family, base), "sliding_window", 12);
    EXPECT_EQ(window(qwen), (Window{0, 0}));
    qwen["use_sliding_window"] = true;
    EXPECT_EQ(window(qwen), (Window{0, 0}));  // from layer 28 of 4
    EXPECT_EQ(window(With(qwen, "max_window_layers", 3)), (Window{3, 12}));
    EXPECT_EQ(window(With(qwen, "max_window_layers", 0)), (Window{0, 12}));
    const json full = "full_attention";
    const json sliding = "sliding_attention";
    EXPECT_EQ(window(With(qwen, "layer_types", {full, full, sliding, sliding})), (Window{2, 12}));
    EXPECT_EQ(window(With(qwen, "layer_types", {full, full, full, full})), (Window{0, 0}));
    EXPECT_EQ(Parse(With(qwen, "layer_types", {sliding, full, sliding, full}))->windowed_layers,
              (std::vector<uint8_t>{1, 0, 1, 0}));
    EXPECT_FALSE(Parse(With(qwen, "layer_types", {full, full})).ok());
    EXPECT_FALSE(Parse(With(qwen, "layer_types", {full, full, full, "chunked_attention"})).ok());
    EXPECT_FALSE(Parse(With(qwen, "layer_types", {full, full, full, 1})).ok());
    qwen["use_sliding_window"] = false;
    EXPECT_FALSE(Parse(With(qwen, "layer_types", {full, full, full, sliding})).ok());
  }
}

// As Gemma3TextConfig of transformers 5 reads the same keys.
TEST(ModelConfig, Gemma3) {
  const json base = Gemma3(64, 96, 7, 100);
  const auto plain = Parse(base);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->head_dim, 256);
  EXPECT_EQ(plain->activation, Activation::kGeluTanh);
  EXPECT_EQ(plain->embedding_scale, 8.0);
  EXPECT_EQ(plain->attention_scale, 1.0 / 16);
  EXPECT_TRUE(plain->norm_weights_minus_one && plain->sandwich_norms && plain->qk_norm);
  EXPECT_TRUE(plain->tie_word_embeddings);
  EXPECT_EQ(plain->windowed_layers, (std::vector<uint8_t>{1, 1, 1, 1, 1, 0, 1}));
  EXPECT_EQ(plain->sliding_window, 4096);
  EXPECT_EQ(plain->rope_theta, 1e6);
  EXPECT_EQ(plain->rope_local_theta, 1e4);
  EXPECT_EQ(plain->rope_scaling, RopeScaling::kNone);
  EXPECT_EQ(Parse(With(base, "query_pre_attn_scalar", 64))->attention_scale, 1.0 / 8);
  EXPECT_EQ(Parse(With(base, "sliding_window_pattern", 2))->windowed_layers,
            (std::vector<uint8_t>{1, 0, 1, 0, 1, 0, 1}));
  EXPECT_EQ(Parse(With(base, "sliding_window_pattern", 1))->sliding_window, 0);

  json old_style = base;
  old_style["rope_theta"] = 5e5;
  old_style["rope_local_base_freq"] = 2e4;
  old_style["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  json new_style = base;
  new_style["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 5e5}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 2e4}}}};
  for (const json& config : {old_style, new_style}) {
    const auto parsed = Parse(config);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->rope_theta, 5e5);
    EXPECT_EQ(parsed->rope_local_theta, 2e4);
    EXPECT_EQ(parsed->rope_scaling, RopeScaling::kLinear);
    EXPECT_EQ(parsed->rope_factor, 8.0);
  }
  new_style["rope_parameters"]["sliding_attention"]["rope_type"] = "linear";
  EXPECT_FALSE(Parse(new_style).ok());
  new_style["rope_parameters"]["sliding_attention"] = 7;
  EXPECT_FALSE(Parse(new_style).ok());

  for (const auto& [key, value] :
       std::vector<std::pair<const char*, json>>{{"hidden_activation", "gelu"},
                                                 {"attn_logit_softcapping", 50.0},
                                                 {"final_logit_softcapping", 30.0},
                                                 {"use_bidirectional_attention", true},
                                                 {"attention_bias", true},
                                                 {"query_pre_attn_scalar", 0},
                                                 {"sliding_window", nullptr},
                                                 {"sliding_window_pattern", 0}}) {
    const absl::Status status = Parse(With(base, key, value)).status();
    EXPECT_NE(std::string(status.message()).find(key), std::string::npos) << status;
  }
}

// As MixtralConfig of transformers 5 reads the same keys.
TEST(ModelConfig, Mixtral) {
  const json base = Without(Mixtral(64, 96, 2, 8), "rms_norm_eps");
  const auto plain = Parse(base);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->num_experts, 8);
  EXPECT_EQ(plain->num_experts_per_token, 2);
  EXPECT_EQ(plain->rope_theta, 1e6);
  EXPECT_EQ(plain->rms_norm_eps, 1e-5);
  EXPECT_EQ(plain->sliding_window, 0);
  EXPECT_EQ(Parse(With(base, "num_local_experts", 4))->num_experts, 4);
  EXPECT_EQ(Parse(With(base, "num_experts_per_tok", 3))->num_experts_per_token, 3);
  EXPECT_EQ(Parse(With(base, "sliding_window", 12))->LayerWindow(1), 12);
  EXPECT_EQ(Parse(With(base, "sliding_window", nullptr))->LayerWindow(1), 0);
  EXPECT_FALSE(Parse(With(base, "num_local_experts", 0)).ok());
  EXPECT_FALSE(Parse(With(base, "num_local_experts", 5000)).ok());
  EXPECT_FALSE(Parse(With(base, "num_experts_per_tok", 9)).ok());
  EXPECT_FALSE(Parse(With(base, "intermediate_size", 9'000'000)).ok());  // times 8 experts
}

TEST(ModelConfig, AbsentKeysTakeTheDefaultsOfTheFamily) {
  json base = Llama(64, 96, 2, 8, 2, 100, true);
  base.erase("num_key_value_heads");
  base.erase("rms_norm_eps");
  base.erase("max_position_embeddings");
  base.erase("tie_word_embeddings");
  const auto llama = Parse(base);
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_EQ(llama->num_kv_heads, 8);
  EXPECT_EQ(llama->head_dim, 8);
  EXPECT_EQ(llama->rms_norm_eps, 1e-6);
  EXPECT_EQ(llama->rope_theta, 10000.0);
  EXPECT_EQ(llama->max_position_embeddings, 2048);
  EXPECT_FALSE(llama->tie_word_embeddings);
  const json mistral = As("MistralForCausalLM", base);
  EXPECT_EQ(Parse(mistral)->num_kv_heads, 8);
  EXPECT_EQ(Parse(mistral)->max_position_embeddings, 131072);
  EXPECT_EQ(Parse(With(mistral, "num_attention_heads", 16))->num_kv_heads, 8);
  const json qwen = As("Qwen2ForCausalLM", base);
  EXPECT_FALSE(Parse(qwen).ok());  // 32 KV heads for 8 heads, as transformers has it
  EXPECT_EQ(Parse(With(qwen, "num_key_value_heads", nullptr))->num_kv_heads, 8);
  EXPECT_EQ(Parse(With(qwen, "num_key_value_heads", nullptr))->max_position_embeddings, 32768);
}

TEST(ModelConfig, ReadsTheOtherRopes) {
  const json base = Llama(64, 96, 2, 4, 2, 100, true);
  const json linear = {{"type", "linear"}, {"factor", 2}};
  EXPECT_EQ(Parse(With(base, "rope_scaling", linear))->rope_scaling, RopeScaling::kLinear);
  EXPECT_EQ(Parse(With(base, "rope_scaling", linear))->rope_factor, 2.0);
  const json plain = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  EXPECT_EQ(Parse(With(base, "rope_parameters", plain))->rope_scaling, RopeScaling::kNone);
  EXPECT_EQ(Parse(With(base, "rope_parameters", plain))->rope_theta, 1e6);
  for (const char* type : {"dynamic", "longrope", "mrope"}) {
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
      const absl::Status status =
          Parse(With(base, key, {{"rope_type", type}, {"factor", 2.0}})).status();
      EXPECT_NE(std::string(status.message()).find("unsupported: "), std::string::npos) << status;
      EXPECT_NE(std::string(status.message()).find(type), std::string::npos) << status;
    }
  }
  const json by_layer = {{"full_attention", plain}};
  EXPECT_FALSE(Parse(With(base, "rope_parameters", by_layer)).ok());
  EXPECT_FALSE(Parse(With(base, "partial_rotary_factor", 0.5)).ok());
}

TEST(ModelConfig, YarnStretchesTheContext) {
  json config = As("Qwen2ForCausalLM", Llama(64, 96, 2, 4, 2, 100, true));
  config["max_position_embeddings"] = 32768;
  // As Qwen2.5's model card has it: the context above stays that of the training.
  config["rope_scaling"] = {
      {"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  const auto parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rope_scaling, RopeScaling::kYarn);
  EXPECT_EQ(parsed->max_position_embeddings, 131072);
  config["rope_scaling"].erase("original_max_position_embeddings");
  EXPECT_EQ(Parse(config)->rope_original_max_position, 32768);
  EXPECT_EQ(Parse(config)->max_position_embeddings, 131072);
  config["max_position_embeddings"] = 131072;
  config["rope_scaling"]["original_max_position_embeddings"] = 30000;
  EXPECT_EQ(Parse(config)->max_position_embeddings, 131072);
  config["rope_scaling"]["factor"] = 1e14;
  EXPECT_EQ(Parse(config)->max_position_embeddings, int64_t{1} << 31);
  config["original_max_position_embeddings"] = 30000;
  EXPECT_NE(std::string(Parse(config).status().message())
                .find("unsupported: original_max_position_embeddings"),
            std::string::npos);
  json gemma = As("Gemma3ForCausalLM", Llama(64, 96, 2, 4, 2, 100, true));
  gemma.erase("hidden_act");
  ASSERT_TRUE(Parse(gemma).ok()) << Parse(gemma).status();
  gemma["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
  EXPECT_NE(std::string(Parse(gemma).status().message()).find("yarn"), std::string::npos);
}

TEST(ModelConfig, RefusesEachBadValueAndNamesFileAndKey) {
  const json good = Llama(64, 96, 2, 4, 2, 100, true);
  ASSERT_TRUE(Parse(good).ok());
  const std::vector<std::pair<const char*, json>> bad = {
      {"architectures", {"GPT2LMHeadModel"}},
      {"architectures", json::array()},
      {"architectures", "LlamaForCausalLM"},
      {"hidden_act", "gelu"},
      {"hidden_size", 0},
      {"hidden_size", -64},
      {"hidden_size", "64"},
      {"hidden_size", 64.5},
      {"hidden_size", 1e18},
      {"intermediate_size", nullptr},
      {"num_hidden_layers", 100000},
      {"num_attention_heads", 0},
      {"num_key_value_heads", 3},
      {"head_dim", 7},
      {"vocab_size", -1},
      {"max_position_embeddings", 0},
      {"rms_norm_eps", -1},
      {"rms_norm_eps", "small"},
      {"rope_theta", 0},
      {"rope_scaling", {{"rope_type", "yarn"}}},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 0.5}}},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}, {"rope_theta", 1.0}}},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}, {"beta_fast", 0.5}}},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}, {"mscale", -1}}},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}, {"attention_factor", 0}}},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}, {"truncate", 1}}},
      {"rope_scaling", {{"rope_type", "llama3"}}},
      {"rope_scaling", 7},
      {"quantization_config", {{"quant_method", "awq"}}},
      {"tie_word_embeddings", 3}};
  for (const auto& [key, value] : bad) {
    const absl::Status status = Parse(With(good, key, value)).status();
    EXPECT_FALSE(status.ok()) << key << " " << value;
    const std::string message(status.message());
    EXPECT_NE(message.find("x/config.json"), std::string::npos) << message;
    const bool named = message.find(key) != std::string::npos ||
                       message.find("architecture") != std::string::npos ||
                       message.find("num_attention_heads") != std::string::npos;
    EXPECT_TRUE(named) << key << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

TEST(ModelConfig, RefusesWhatIsNotAConfig) {
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{"), std::string("{\"hidden_size\": NaN}"),
        std::string(100'000, '['), std::string("\xff\xfe"), std::string("null")}) {
    EXPECT_FALSE(ModelConfig::Parse(text, "x/config.json").ok());
  }
  EXPECT_FALSE(ModelConfig::Load("/nowhere").ok());
}

}  // namespace
}  // namespace trireme
