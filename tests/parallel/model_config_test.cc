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
            596'049'920u);  // Qwen3 0.6B
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
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}},
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
