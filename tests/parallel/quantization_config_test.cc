#include "parallel/quantization_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "parallel/model_config.h"

namespace trireme {
namespace {

using nlohmann::json;
using Method = QuantizationMethod;

absl::StatusOr<QuantizationConfig> Parse(const json& quantization) {
  // Parsed, because a whole number of a file is unsigned.
  const json config = json::parse(json{{"quantization_config", quantization}}.dump());
  return QuantizationConfig::Parse(JsonFields(config, "x/config.json"));
}

// As llm-compressor 0.6 writes it.
json Compressed(const std::string& type, const std::string& format) {
  return json::parse(R"({
    "config_groups": {"group_0": {
      "input_activations": {"actorder": null, "block_structure": null, "dynamic": true,
                            "group_size": null, "num_bits": 8, "observer": null,
                            "observer_kwargs": {}, "strategy": "token", "symmetric": true,
                            "type": ")" +
                     type + R"("},
      "output_activations": null,
      "targets": ["Linear"],
      "weights": {"actorder": null, "block_structure": null, "dynamic": false, "group_size": null,
                  "num_bits": 8, "observer": "minmax", "observer_kwargs": {},
                  "strategy": "channel", "symmetric": true, "type": ")" +
                     type + R"("}}},
    "format": ")" + format +
                     R"(", "global_compression_ratio": null, "ignore": ["lm_head"],
    "kv_cache_scheme": null, "quant_method": "compressed-tensors",
    "quantization_status": "compressed", "sparsity_config": {}, "transform_config": {},
    "version": "0.10.2"})");
}

const json kAwq = {{"quant_method", "awq"}, {"bits", 4},
                   {"group_size", 128},     {"version", "gemm"},
                   {"zero_point", true},    {"modules_to_not_convert", nullptr}};
const json kGptq = {{"quant_method", "gptq"}, {"bits", 4},   {"group_size", 128},
                    {"desc_act", false},      {"sym", true}, {"damp_percent", 0.01}};
const json kFp8 = {{"quant_method", "fp8"},
                   {"fmt", "e4m3"},
                   {"activation_scheme", "dynamic"},
                   {"weight_block_size", {128, 64}}};

TEST(QuantizationConfig, ReadsEveryMethod) {
  EXPECT_EQ(Parse(nullptr)->method, Method::kNone);
  EXPECT_EQ(Parse(Compressed("int", "int-quantized"))->method, Method::kInt8);
  EXPECT_EQ(Parse(Compressed("float", "float-quantized"))->method, Method::kFp8);
  EXPECT_EQ(Parse(Compressed("float", "naive-quantized"))->block_rows, 0);
  json weights_only = Compressed("float", "float-quantized");
  EXPECT_TRUE(Parse(weights_only)->fp8_activations);
  weights_only["config_groups"]["group_0"]["input_activations"] = nullptr;
  EXPECT_FALSE(Parse(weights_only)->fp8_activations);
  const auto fp8 = Parse(kFp8);
  ASSERT_TRUE(fp8.ok()) << fp8.status();
  EXPECT_EQ(fp8->method, Method::kFp8);
  EXPECT_EQ(fp8->block_rows, 128);
  EXPECT_EQ(fp8->block_cols, 64);
  const auto awq = Parse(kAwq);
  ASSERT_TRUE(awq.ok()) << awq.status();
  EXPECT_EQ(awq->method, Method::kAwq);
  EXPECT_EQ(awq->group_size, 128);
  EXPECT_FALSE(awq->zeros_minus_one);
  auto gptq = Parse(kGptq);
  ASSERT_TRUE(gptq.ok()) << gptq.status();
  EXPECT_EQ(gptq->method, Method::kGptq);
  EXPECT_TRUE(gptq->zeros_minus_one);
  EXPECT_FALSE(gptq->act_order);
  json v2 = kGptq;
  v2["checkpoint_format"] = "gptq_v2";
  v2["group_size"] = -1;
  gptq = Parse(v2);
  ASSERT_TRUE(gptq.ok()) << gptq.status();
  EXPECT_FALSE(gptq->zeros_minus_one);
  EXPECT_EQ(gptq->group_size, 0);
}

// With one group there is no order.
TEST(QuantizationConfig, ActOrderIsOfGroups) {
  json config = kGptq;
  config["desc_act"] = true;
  ASSERT_TRUE(Parse(config).ok()) << Parse(config).status();
  EXPECT_TRUE(Parse(config)->act_order);
  config["group_size"] = -1;
  EXPECT_FALSE(Parse(config)->act_order);
}

TEST(QuantizationConfig, StaticActivationScalesMustBeSymmetric) {
  json config = Compressed("float", "float-quantized");
  json& inputs = config["config_groups"]["group_0"]["input_activations"];
  inputs["dynamic"] = false;
  EXPECT_TRUE(Parse(config).ok());
  inputs["symmetric"] = false;
  EXPECT_FALSE(Parse(config).ok());
  config["config_groups"]["group_0"]["input_activations"] = nullptr;
  EXPECT_TRUE(Parse(config).ok());
}

// Each change of a good configuration is refused by the last key of its path.
TEST(QuantizationConfig, RefusesByKeyWhatIsNotComputed) {
  const json int8 = Compressed("int", "int-quantized");
  const std::string weights = "/config_groups/group_0/weights/";
  const std::string inputs = "/config_groups/group_0/input_activations/";
  const std::vector<std::tuple<json, std::string, json>> bad = {
      {int8, "/quant_method", "bitsandbytes"},
      {int8, "/quant_method", 3},
      {int8, "/format", "pack-quantized"},
      {int8, "/format", "float-quantized"},
      {int8, "/kv_cache_scheme", {{"num_bits", 8}}},
      {int8, "/transform_config", {{"config_groups", 1}}},
      {int8, "/sparsity_config", {{"format", "sparse-24-bitmask"}}},
      {int8, "/quantization_status", "initialized"},
      {int8, "/ignore", "lm_head"},
      {int8, "/config_groups", nullptr},
      {int8, "/config_groups", {{"a", 1}, {"b", 2}}},
      {int8, weights + "num_bits", 4},
      {int8, weights + "type", "nf4"},
      {int8, weights + "strategy", "group"},
      {int8, weights + "strategy", "block"},
      {int8, weights + "symmetric", false},
      {int8, weights + "dynamic", true},
      {int8, inputs + "num_bits", 4},
      {int8, inputs + "dynamic", "local"},
      {int8, "/config_groups/group_0/output_activations", {{"num_bits", 8}}},
      {kFp8, "/fmt", "e5m2"},
      {kFp8, "/activation_scheme", "static"},
      {kFp8, "/weight_block_size", nullptr},
      {kFp8, "/weight_block_size", {128}},
      {kFp8, "/weight_block_size", {128, 0}},
      {kFp8, "/weight_block_size", {128, -1}},
      {kFp8, "/scale_fmt", "ue8m0"},
      {kAwq, "/bits", 8},
      {kAwq, "/bits", "4"},
      {kAwq, "/version", "gemv"},
      {kAwq, "/zero_point", false},
      {kAwq, "/group_size", 48},
      {kAwq, "/group_size", 0},
      {kAwq, "/group_size", -2},
      {kAwq, "/group_size", nullptr},
      {kAwq, "/modules_to_not_convert", {1}},
      {kGptq, "/bits", 3},
      {kGptq, "/desc_act", "yes"},
      {kGptq, "/dynamic", {{"-:lm_head", 1}}},
      {kGptq, "/checkpoint_format", "marlin"},
      {kGptq, "/pack_dtype", "int64"}};
  for (const auto& [good, path, value] : bad) {
    ASSERT_TRUE(Parse(good).ok()) << Parse(good).status();
    json changed = good;
    changed[json::json_pointer(path)] = value;
    const absl::Status status = Parse(changed).status();
    ASSERT_FALSE(status.ok()) << path << " " << value;
    const std::string message(status.message());
    EXPECT_NE(message.find("x/config.json: "), std::string::npos) << message;
    EXPECT_NE(message.find(path.substr(path.rfind('/') + 1)), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  EXPECT_FALSE(Parse("awq").ok());
}

TEST(QuantizationConfig, IsRefusedWithArchitecturesItIsNotReadFor) {
  const auto parse = [](const std::string& architecture, const json& quantization) {
    const json config = {{"architectures", {architecture}},
                         {"hidden_size", 64},
                         {"intermediate_size", 96},
                         {"num_hidden_layers", 1},
                         {"num_attention_heads", 8},
                         {"num_key_value_heads", 8},
                         {"hidden_act", "silu"},
                         {"hidden_activation", "gelu_pytorch_tanh"},
                         {"vocab_size", 32},
                         {"quantization_config", quantization}};
    return ModelConfig::Parse(config.dump(), "x/config.json").status();
  };
  for (const char* name :
       {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    EXPECT_TRUE(parse(name, kAwq).ok()) << parse(name, kAwq);
  }
  for (const char* name : {"Gemma3ForCausalLM", "MixtralForCausalLM"}) {
    EXPECT_NE(parse(name, kAwq).message().find("quantization_config"), std::string::npos);
    EXPECT_TRUE(parse(name, nullptr).ok()) << parse(name, nullptr);
  }
}

}  // namespace
}  // namespace trireme
