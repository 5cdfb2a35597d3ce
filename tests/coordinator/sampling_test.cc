// Every bound that inference.proto states, and the defaults' order: request, model, ours.

#include "coordinator/gateway/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "coordinator/gateway/gguf_sampling.h"
#include "tests/gguf_writer.h"

namespace trireme {
namespace {

class SamplingTest : public testing::Test {
 protected:
  absl::StatusOr<ResolvedSampling> Resolve(const v1::SamplingParams& params) const {
    return ResolveSampling(params, {.defaults = &defaults_,
                                    .prompt_tokens = 10,
                                    .max_model_len = 100,
                                    .vocab_size = 50,
                                    .drawn_seed = 77});
  }

  void ExpectRefused(const v1::SamplingParams& params, const std::string& name) const {
    const auto resolved = Resolve(params);
    ASSERT_FALSE(resolved.ok()) << name;
    EXPECT_TRUE(absl::IsInvalidArgument(resolved.status()));
    EXPECT_NE(std::string(resolved.status().message()).find(name), std::string::npos)
        << resolved.status();
  }

  SamplingDefaults defaults_;
};

TEST_F(SamplingTest, FillsInDefaults) {
  defaults_.temperature = 0.6f;
  defaults_.top_k = 20;
  const auto resolved = Resolve({});
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_FLOAT_EQ(resolved->step.temperature(), 0.6f);
  EXPECT_EQ(resolved->step.top_k(), 20);
  EXPECT_EQ(resolved->step.top_p(), 1.0f);
  EXPECT_EQ(resolved->step.repetition_penalty(), 1.0f);
  EXPECT_EQ(resolved->step.seed(), 77u);
  EXPECT_EQ(resolved->max_tokens, 90u);
  EXPECT_EQ(resolved->n, 1u);
  EXPECT_FALSE(resolved->step.has_logprobs());
  v1::SamplingParams params;
  params.set_temperature(0);
  params.set_seed(5);
  EXPECT_EQ(Resolve(params)->step.temperature(), 0.0f);
  EXPECT_EQ(Resolve(params)->step.seed(), 5u);
}

TEST_F(SamplingTest, BiasesComeInTheOrderOfTheirTokens) {
  v1::SamplingParams params;
  for (const int32_t id : {7, 3, 11, 5})
    (*params.mutable_logit_bias())[id] = static_cast<float>(id);
  const v1::StepSampling step = Resolve(params)->step;
  ASSERT_EQ(step.bias_ids_size(), 4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(step.bias(i), static_cast<float>(step.bias_ids(i)));
  EXPECT_TRUE(std::is_sorted(step.bias_ids().begin(), step.bias_ids().end()));
}

TEST_F(SamplingTest, RefusesWhatIsOutOfBounds) {
  const auto with = [](auto set) {
    v1::SamplingParams params;
    set(params);
    return params;
  };
  using P = v1::SamplingParams;
  for (const float bad : {-0.1f, 100.5f, NAN, INFINITY}) {
    ExpectRefused(with([&](P& p) { p.set_temperature(bad); }), "temperature");
  }
  for (const float bad : {0.0f, -1.0f, 1.1f, NAN}) {
    ExpectRefused(with([&](P& p) { p.set_top_p(bad); }), "top_p");
  }
  for (const float bad : {-0.1f, 1.1f, NAN}) {
    ExpectRefused(with([&](P& p) { p.set_min_p(bad); }), "min_p");
  }
  for (const float bad : {0.0f, -1.0f, NAN, INFINITY}) {
    ExpectRefused(with([&](P& p) { p.set_repetition_penalty(bad); }), "repetition_penalty");
  }
  for (const float bad : {-2.1f, 2.1f, NAN}) {
    ExpectRefused(with([&](P& p) { p.set_presence_penalty(bad); }), "presence_penalty");
    ExpectRefused(with([&](P& p) { p.set_frequency_penalty(bad); }), "frequency_penalty");
  }
  ExpectRefused(with([](P& p) { p.set_top_k(-2); }), "top_k");
  ExpectRefused(with([](P& p) { p.set_logprobs(21); }), "logprobs");
  ExpectRefused(with([](P& p) { p.set_n(0); }), "n is 0");
  ExpectRefused(with([](P& p) { p.set_n(1000); }), "n is 1000; it must be from 1 to 128");
  ExpectRefused(with([](P& p) { p.set_best_of(1000); }), "best_of is 1000");
  ExpectRefused(with([](P& p) {
                  p.set_n(3);
                  p.set_best_of(2);
                }),
                "best_of is 2; it must be from n");
  ExpectRefused(with([](P& p) { p.set_prompt_logprobs(21); }), "prompt_logprobs");
  ExpectRefused(with([](P& p) { (*p.mutable_logit_bias())[50] = 1; }), "token id 50");
  ExpectRefused(with([](P& p) { (*p.mutable_logit_bias())[-1] = 1; }), "token id -1");
  for (const float bad : {-100.5f, 101.0f, NAN, INFINITY}) {
    ExpectRefused(with([&](P& p) { (*p.mutable_logit_bias())[1] = bad; }), "logit_bias");
  }
  ExpectRefused(with([](P& p) { p.set_max_tokens(0); }), "max_tokens");
  ExpectRefused(with([](P& p) { p.set_max_tokens(91); }), "at most 90");
  ExpectRefused(with([](P& p) { p.add_stop_token_ids(50); }), "50");
  ExpectRefused(with([](P& p) { p.add_stop_token_ids(-1); }), "-1");
  ExpectRefused(with([](P& p) { p.add_stop(""); }), "stop");
  ExpectRefused(with([](P& p) { p.add_stop(std::string(257, 'x')); }), "stop");
  ExpectRefused(with([](P& p) {
                  for (int i = 0; i < 17; ++i) p.add_stop("x");
                }),
                "stop");
}

TEST_F(SamplingTest, EndTokensStopUnlessIgnored) {
  defaults_.eos_token_ids = {3, 4};
  v1::SamplingParams params;
  params.add_stop_token_ids(9);
  EXPECT_EQ(Resolve(params)->stop_token_ids.size(), 3u);
  params.set_ignore_eos(true);
  EXPECT_EQ(Resolve(params)->stop_token_ids, std::vector<int32_t>{9});
}

TEST(SamplingDefaults, ReadsGenerationConfig) {
  const auto dir = std::filesystem::temp_directory_path() / "trireme_sampling_defaults";
  std::filesystem::create_directories(dir);
  const auto load = [&](const std::string& text) {
    std::ofstream(dir / "generation_config.json") << text;
    std::ofstream(dir / "config.json") << R"({"eos_token_id": 7})";
    return SamplingDefaults::Load(dir, 50);
  };
  const auto full =
      load(R"({"temperature": 0.6, "top_p": 0.9, "top_k": 5, "eos_token_id": [1, 2]})");
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_FLOAT_EQ(full->temperature, 0.6f);
  EXPECT_EQ(full->top_k, 5);
  EXPECT_EQ(full->eos_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_TRUE(full->stated);
  EXPECT_EQ(load("{}")->eos_token_ids, std::vector<int32_t>{7});
  EXPECT_FALSE(load(R"({"do_sample": true, "eos_token_id": 1})")->stated);
  EXPECT_TRUE(load(R"({"do_sample": false})")->stated);
  EXPECT_EQ(load(R"({"do_sample": false})")->temperature, 0.0f);
  EXPECT_EQ(load(R"({"do_sample": true})")->temperature, 1.0f);
  for (const char* bad : {"[", R"({"temperature": "hot"})", R"({"top_p": 7})",
                          R"({"eos_token_id": 99})", R"({"eos_token_id": "x"})"}) {
    const absl::Status status = load(bad).status();
    EXPECT_NE(std::string(status.message()).find("generation_config.json"), std::string::npos)
        << bad << " " << status;
  }
  std::filesystem::remove_all(dir);
}

TEST(SamplingDefaults, ReadsAGgufFile) {
  const auto defaults = [](const GgufWriter& writer) {
    const std::string bytes = writer.File();
    const GgufFile file = *GgufFile::Parse(AsBytes(bytes), "test.gguf");
    return GgufSamplingDefaults(file, *GgufTokens::Read(file));
  };
  // As in Gemma's files: one end token by its key, the end of a turn by its text alone. What is no
  // control token (3) is text.
  GgufWriter gemma;
  gemma.Uint("tokenizer.ggml.eos_token_id", 1);
  gemma.Texts("tokenizer.ggml.tokens", {"<pad>", "<eos>", "x", "<end_of_turn>", "</s>"});
  gemma.List<int32_t>("tokenizer.ggml.token_type", kGgufInt32, {3, 3, 1, 3, 1});
  EXPECT_EQ(defaults(gemma)->eos_token_ids, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(defaults(gemma)->temperature, 1.0f);
  EXPECT_FALSE(defaults(gemma)->stated);
  gemma.Float("general.sampling.temp", 0.5f).Float("general.sampling.top_p", 0.25f);
  gemma.Raw("general.sampling.top_k", kGgufInt32, Bytes(int32_t{64}));
  gemma.Uint("tokenizer.ggml.eot_token_id", 2);
  const auto all = defaults(gemma);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_TRUE(all->stated);
  EXPECT_EQ(all->temperature, 0.5f);
  EXPECT_EQ(all->top_p, 0.25f);
  EXPECT_EQ(all->top_k, 64);
  EXPECT_EQ(all->eos_token_ids, (std::vector<int32_t>{1, 2, 3}));
  const auto tokens = [] { return GgufWriter().Texts("tokenizer.ggml.tokens", {"x"}); };
  EXPECT_TRUE(defaults(tokens()).ok());
  EXPECT_FALSE(defaults(tokens().Float("general.sampling.top_p", 7)).ok());
  EXPECT_FALSE(defaults(tokens().Float("general.sampling.temp", std::nanf(""))).ok());
}

}  // namespace
}  // namespace trireme
