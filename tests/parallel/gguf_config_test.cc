#include "parallel/gguf_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/gguf_writer.h"

namespace trireme {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden";

// The least that a file of this architecture must say.
GgufWriter Minimal(const std::string& architecture) {
  GgufWriter writer;
  writer.Text("general.architecture", architecture);
  const auto key = [&](const char* name) { return architecture + "." + name; };
  writer.Uint(key("block_count"), 7).Uint(key("embedding_length"), 64);
  writer.Uint(key("feed_forward_length"), 96).Uint(key("attention.head_count"), 4);
  writer.Uint(key("context_length"), 512);
  writer.Float(key("attention.layer_norm_rms_epsilon"), 1e-6f);
  writer.Floats("token_embd.weight", {64, 10});
  return writer;
}

absl::StatusOr<ModelConfig> Config(const std::string& text) {
  const auto file = GgufFile::Parse(AsBytes(text), "test.gguf");
  if (!file.ok()) return file.status();
  return GgufModelConfig(*file);
}
absl::StatusOr<ModelConfig> Config(const GgufWriter& writer) { return Config(writer.File()); }

void ExpectRefused(const GgufWriter& writer, const std::string& what) {
  const std::string message(Config(writer).status().message());
  EXPECT_NE(message.find(what), std::string::npos) << message << "\nwithout: " << what;
}

// What a tensor parallel model is made of; the rest is compared by those who know its difference.
void ExpectSameShape(const ModelConfig& got, const ModelConfig& want) {
  EXPECT_EQ(got.architecture, want.architecture);
  EXPECT_EQ(got.hidden_size, want.hidden_size);
  EXPECT_EQ(got.intermediate_size, want.intermediate_size);
  EXPECT_EQ(got.num_layers, want.num_layers);
  EXPECT_EQ(got.num_heads, want.num_heads);
  EXPECT_EQ(got.num_kv_heads, want.num_kv_heads);
  EXPECT_EQ(got.head_dim, want.head_dim);
  EXPECT_EQ(got.vocab_size, want.vocab_size);
  EXPECT_EQ(got.max_position_embeddings, want.max_position_embeddings);
  EXPECT_EQ(static_cast<float>(got.rms_norm_eps), static_cast<float>(want.rms_norm_eps));
  EXPECT_EQ(got.rope_theta, want.rope_theta);
  EXPECT_EQ(got.tie_word_embeddings, want.tie_word_embeddings);
  EXPECT_EQ(got.qkv_bias, want.qkv_bias);
  EXPECT_EQ(got.o_bias, want.o_bias);
  EXPECT_EQ(got.mlp_bias, want.mlp_bias);
  EXPECT_EQ(got.qk_norm, want.qk_norm);
  EXPECT_EQ(got.sliding_window, want.sliding_window);
  EXPECT_EQ(got.windowed_layers, want.windowed_layers);
  EXPECT_EQ(got.rope_local_theta, want.rope_local_theta);
  EXPECT_EQ(got.activation, want.activation);
  EXPECT_EQ(got.embedding_scale, want.embedding_scale);
  EXPECT_EQ(got.sandwich_norms, want.sandwich_norms);
  EXPECT_EQ(got.num_experts, want.num_experts);
  EXPECT_EQ(got.num_experts_per_token, want.num_experts_per_token);
}

// The same model before and after llama.cpp's converter (tools/make_gguf_golden.py).
class ConvertedConfigTest : public testing::TestWithParam<std::string> {};

TEST_P(ConvertedConfigTest, SaysWhatConfigJsonSays) {
  const std::string name = GetParam();
  const std::string file = name == "qwen2" ? "qwen2-00001-of-00003.gguf" : name + ".gguf";
  const auto got = ModelConfig::Load(kGolden / "gguf" / file);
  ASSERT_TRUE(got.ok()) << got.status();
  const auto want = ModelConfig::Load(kGolden / "models" / name);
  ASSERT_TRUE(want.ok()) << want.status();
  ExpectSameShape(*got, *want);
  if (want->rope_scaling == RopeScaling::kLlama3) {
    // Frequencies that are not scaled, some between, and those divided by the factor.
    ASSERT_EQ(got->rope_freq_factors.size(), static_cast<size_t>(want->head_dim / 2));
    EXPECT_EQ(got->rope_freq_factors.front(), 1.0f);
    EXPECT_EQ(got->rope_freq_factors.back(), static_cast<float>(want->rope_factor));
    EXPECT_EQ(got->rope_scaling, RopeScaling::kNone);
  } else {
    EXPECT_TRUE(got->rope_freq_factors.empty());
    EXPECT_EQ(got->rope_scaling, want->rope_scaling);
    EXPECT_EQ(got->rope_factor, want->rope_factor);
    EXPECT_EQ(got->rope_original_max_position, want->rope_original_max_position);
    EXPECT_EQ(got->rope_attention_factor, want->rope_attention_factor);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ConvertedConfigTest,
                         testing::Values("llama32", "llama_bias", "llama_linear_rope", "mixtral",
                                         "gemma3", "qwen2", "qwen2_yarn", "qwen3"),
                         [](const auto& info) { return info.param; });

TEST(GgufConfigTest, FillsInWhatLlamaCppAssumes) {
  const auto config = Config(Minimal("llama"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "LlamaForCausalLM");
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->vocab_size, 10);
  EXPECT_EQ(config->rope_theta, 10000.0);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_FALSE(config->qkv_bias);
  EXPECT_EQ(config->attention_scale, 0);
  EXPECT_FALSE(Config(Minimal("llama").Floats("output.weight", {64, 10}))->tie_word_embeddings);
  EXPECT_TRUE(Config(Minimal("llama").Floats("blk.0.attn_q.bias", {64}))->qkv_bias);
  EXPECT_TRUE(Config(Minimal("qwen2"))->qkv_bias);
  EXPECT_TRUE(Config(Minimal("qwen3"))->qk_norm);
}

TEST(GgufConfigTest, LlamaIsAlsoMistralAndMixtral) {
  const auto mistral = Config(Minimal("llama").Uint("llama.attention.sliding_window", 48));
  ASSERT_TRUE(mistral.ok()) << mistral.status();
  EXPECT_EQ(mistral->architecture, "MistralForCausalLM");
  EXPECT_EQ(mistral->LayerWindow(6), 48);
  const auto mixtral =
      Config(Minimal("llama").Uint("llama.expert_count", 8).Uint("llama.expert_used_count", 2));
  ASSERT_TRUE(mixtral.ok()) << mixtral.status();
  EXPECT_EQ(mixtral->architecture, "MixtralForCausalLM");
  EXPECT_EQ(mixtral->num_experts, 8);
  EXPECT_EQ(mixtral->num_experts_per_token, 2);
  ExpectRefused(Minimal("llama").Uint("llama.expert_count", 8),
                "llama.expert_used_count is missing");
  ExpectRefused(Minimal("llama").Uint("llama.expert_count", 8).Uint("llama.expert_used_count", 9),
                "llama.expert_used_count is 9");
  GgufWriter large = Minimal("llama");
  large.metadata.replace(large.metadata.find("llama.feed_forward_length") + 29, 4,
                         Bytes(uint32_t{2'000'000}));
  ExpectRefused(large.Uint("llama.expert_count", 8).Uint("llama.expert_used_count", 2),
                "llama.expert_count x feed_forward_length is 16000000");
  ExpectRefused(Minimal("qwen3").Uint("qwen3.expert_count", 8), "unsupported: qwen3.expert_count");
}

TEST(GgufConfigTest, GemmaHasItsOwnScalesAndWindows) {
  const auto plain = Config(Minimal("gemma3").Uint("gemma3.attention.sliding_window", 0));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->sliding_window, 0);
  const auto config = Config(Minimal("gemma3")
                                 .Uint("gemma3.attention.sliding_window", 512)
                                 .Uint("gemma3.attention.key_length", 256)
                                 .Uint("gemma3.attention.value_length", 256)
                                 .Float("gemma3.rope.freq_base", 1e6f));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "Gemma3ForCausalLM");
  EXPECT_EQ(config->windowed_layers, (std::vector<uint8_t>{1, 1, 1, 1, 1, 0, 1}));
  EXPECT_EQ(config->LayerWindow(0), 512);
  EXPECT_EQ(config->LayerWindow(5), 0);
  EXPECT_EQ(config->rope_theta, 1e6);
  EXPECT_EQ(config->rope_local_theta, 10000.0);
  EXPECT_EQ(config->embedding_scale, 8.0);
  EXPECT_EQ(config->attention_scale, 1.0 / 16);
  EXPECT_EQ(config->activation, Activation::kGeluTanh);
  EXPECT_TRUE(config->sandwich_norms);
  EXPECT_TRUE(config->qk_norm);
  EXPECT_FALSE(config->norm_weights_minus_one);
}

// The 27B model divides by the square root of hidden_size / num_heads, not of head_dim.
TEST(GgufConfigTest, TheLargestGemmaScalesByItsHiddenSize) {
  GgufWriter writer;
  writer.Text("general.architecture", "gemma3").Uint("gemma3.block_count", 62);
  writer.Uint("gemma3.embedding_length", 5376).Uint("gemma3.feed_forward_length", 21504);
  writer.Uint("gemma3.attention.head_count", 32).Uint("gemma3.attention.head_count_kv", 16);
  writer.Uint("gemma3.attention.key_length", 128).Uint("gemma3.attention.value_length", 128);
  writer.Uint("gemma3.context_length", 131072);
  writer.Float("gemma3.attention.layer_norm_rms_epsilon", 1e-6f);
  writer.Text("gemma3.rope.scaling.type", "linear").Float("gemma3.rope.scaling.factor", 8);
  writer.Floats("token_embd.weight", {5376, 1});
  const auto config = Config(writer);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->attention_scale, 1.0 / std::sqrt(168.0));
  EXPECT_EQ(config->rope_scaling, RopeScaling::kLinear);
  EXPECT_EQ(config->rope_factor, 8.0);
}

TEST(GgufConfigTest, WindowPatternIsAPeriodOrAList) {
  const auto with = [](const std::function<void(GgufWriter&)>& add) {
    GgufWriter writer = Minimal("gemma3");
    writer.Uint("gemma3.attention.sliding_window", 512);
    add(writer);
    return Config(writer);
  };
  const std::string key = "gemma3.attention.sliding_window_pattern";
  EXPECT_EQ(with([&](GgufWriter& w) { w.Uint(key, 2); })->windowed_layers,
            (std::vector<uint8_t>{1, 0, 1, 0, 1, 0, 1}));
  EXPECT_EQ(with([&](GgufWriter& w) { w.Uint(key, 0); })->windowed_layers,
            (std::vector<uint8_t>{1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(with([&](GgufWriter& w) {
              w.List<uint8_t>(key, kGgufBool, {0, 0, 1, 1, 0, 0, 1});
            })->windowed_layers,
            (std::vector<uint8_t>{0, 0, 1, 1, 0, 0, 1}));
  EXPECT_FALSE(with([&](GgufWriter& w) { w.List<uint8_t>(key, kGgufBool, {0, 1}); }).ok());
  EXPECT_FALSE(with([&](GgufWriter& w) { w.Text(key, "2"); }).ok());
}

TEST(GgufConfigTest, NumbersOfLayersMayBeListsOfOneNumber) {
  const auto with = [](const std::vector<uint32_t>& heads) {
    GgufWriter writer = Minimal("llama");
    writer.List<uint32_t>("llama.attention.head_count_kv", kGgufUint32, heads);
    return writer;
  };
  EXPECT_EQ(Config(with({2, 2, 2, 2, 2, 2, 2}))->num_kv_heads, 2);
  ExpectRefused(with({2, 2, 2, 2, 2, 2, 1}), "head_count_kv differs between layers");
  ExpectRefused(with({2, 2}), "is a list of 2 for 7 layers");
  ExpectRefused(with({0, 0, 0, 0, 0, 0, 0}), "head_count_kv is 0");
}

TEST(GgufConfigTest, RefusesWhatItCannotCompute) {
  GgufWriter unknown;
  unknown.Text("general.architecture", "mamba");
  ExpectRefused(unknown,
                "unsupported: general.architecture is \"mamba\"; supported are: llama, qwen2, "
                "qwen3, gemma3");
  ExpectRefused(GgufWriter(), "general.architecture is missing");
  ExpectRefused(Minimal("gemma3").Float("gemma3.final_logit_softcapping", 30),
                "unsupported: gemma3.final_logit_softcapping other than 0");
  EXPECT_TRUE(Config(Minimal("gemma3").Float("gemma3.final_logit_softcapping", 0)).ok());
  ExpectRefused(Minimal("gemma3").Float("gemma3.attn_logit_softcapping", 50), "unsupported: ");
  ExpectRefused(Minimal("llama").Text("llama.rope.scaling.type", "longrope"),
                "llama.rope.scaling.type is \"longrope\"; supported are: none, linear, yarn");
  ExpectRefused(Minimal("gemma3").Float("gemma3.rope.scaling.attn_factor", 2), "attn_factor");
  ExpectRefused(Minimal("gemma3").Text("gemma3.rope.scaling.type", "yarn"), "\"yarn\"");
  ExpectRefused(Minimal("llama").Bool("llama.attention.causal", false), "causal");
  ExpectRefused(Minimal("llama").Uint("llama.rope.dimension_count", 8),
                "llama.rope.dimension_count is 8, but a head of the keys has 16");
  ExpectRefused(Minimal("llama")
                    .Uint("llama.attention.key_length", 32)
                    .Uint("llama.attention.value_length", 16),
                "llama.attention.value_length is 16");
}

TEST(GgufConfigTest, YarnIsAsLlamaCppComputesIt) {
  const auto yarn = [](float factor) {
    GgufWriter writer = Minimal("qwen2");
    writer.Text("qwen2.rope.scaling.type", "yarn").Float("qwen2.rope.scaling.factor", factor);
    return writer;
  };
  const auto plain = Config(yarn(4));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->rope_scaling, RopeScaling::kYarn);
  EXPECT_EQ(plain->rope_original_max_position, 512);
  EXPECT_EQ(plain->max_position_embeddings, 2048);
  EXPECT_EQ(plain->rope_attention_factor, 1.0 + 0.1 * std::log(4.0));
  const auto full = Config(yarn(4)
                               .Uint("qwen2.rope.scaling.original_context_length", 64)
                               .Float("qwen2.rope.scaling.attn_factor", 0.5f)
                               .Float("qwen2.rope.scaling.yarn_ext_factor", 1)
                               .Float("qwen2.rope.scaling.yarn_attn_factor", 1.1386294f)
                               .Float("qwen2.rope.scaling.yarn_beta_fast", 32)
                               .Float("qwen2.rope.scaling.yarn_beta_slow", 1)
                               .Float("qwen2.rope.scaling.yarn_log_multiplier", 0));
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_EQ(full->rope_original_max_position, 64);
  EXPECT_EQ(full->max_position_embeddings, 512);
  EXPECT_EQ(full->rope_attention_factor, 0.5 * (1.0 + 0.1 * std::log(4.0)));
  EXPECT_EQ(Config(yarn(0))->rope_scaling, RopeScaling::kNone);
  EXPECT_EQ(Config(yarn(1))->rope_scaling, RopeScaling::kNone);
  EXPECT_EQ(
      Config(Minimal("llama").Float("llama.rope.scaling.attn_factor", 2))->rope_attention_factor,
      2.0);
  ExpectRefused(yarn(0.5f), "qwen2.rope.scaling.factor is 0.5");
  ExpectRefused(yarn(4).Float("qwen2.rope.freq_base", 1), "qwen2.rope.freq_base is 1");
  ExpectRefused(yarn(4).Uint("qwen2.rope.scaling.original_context_length", 0),
                "qwen2.rope.scaling.original_context_length");
  for (const char* name : {"yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast",
                           "yarn_beta_slow", "yarn_log_multiplier"}) {
    const std::string key = std::string("qwen2.rope.scaling.") + name;
    ExpectRefused(yarn(4).Float(key, 2), "unsupported: " + key + " is 2");
  }
}

TEST(GgufConfigTest, RefusesShapesThatDoNotFit) {
  ExpectRefused(Minimal("llama").Uint("llama.attention.head_count_kv", 3),
                "is not a multiple of head_count_kv 3");
  ExpectRefused(Minimal("llama").Uint("llama.attention.key_length", 15), "is odd");
  ExpectRefused(Minimal("llama").Uint("llama.attention.key_length", 10'000'000),
                "head_count x key_length");
  ExpectRefused(Minimal("llama").Texts("tokenizer.ggml.tokens", {"a", "b"}),
                "tokenizer.ggml.tokens has 2 tokens, but \"token_embd.weight\" 10 rows");
  GgufWriter no_embedding = Minimal("llama");
  no_embedding.tensors.clear();
  ExpectRefused(no_embedding, "tensor \"token_embd.weight\" is missing");
  GgufWriter narrow = Minimal("llama");
  narrow.tensors.clear();
  ExpectRefused(narrow.Floats("token_embd.weight", {32, 10}), "expected [tokens, 64]");
  ExpectRefused(Minimal("llama").Floats("rope_freqs.weight", {7}, 1), "expected F32 of [8]");
  ExpectRefused(Minimal("llama").Floats("rope_freqs.weight", {8}, 0), "is not above 0");
  EXPECT_EQ(Config(Minimal("llama").Floats("rope_freqs.weight", {8}, 1))->rope_freq_factors[7], 8);
}

TEST(GgufConfigTest, EveryNeededKeyIsNamedWhenItIsMissing) {
  for (const char* missing :
       {"block_count", "embedding_length", "feed_forward_length", "attention.head_count",
        "context_length", "attention.layer_norm_rms_epsilon"}) {
    GgufWriter writer = Minimal("llama");
    const size_t at = writer.metadata.find(std::string("llama.") + missing);
    writer.metadata[at] = 'x';
    ExpectRefused(writer, std::string("llama.") + missing + " is missing");
  }
}

}  // namespace
}  // namespace trireme
