// Log probabilities of prompt tokens: against transformers, and bit for bit against those that
// decode steps give.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/escaping.h"
#include "base/file.h"
#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

const std::filesystem::path kRoot = TRIREME_SOURCE_DIR;

// The golden logits are good to 1e-4.
constexpr double kTolerance = 2e-4;
constexpr uint32_t kTop = 5;

// The entries of a prompt, by position.
std::map<uint32_t, v1::PromptLogprob> PromptLogprobs(const DriverOptions& options,
                                                     const std::vector<int32_t>& prompt) {
  TestRequest request{.prompt = prompt, .steps = 2, .sampling = GreedySampling()};
  request.sampling.set_prompt_logprobs(kTop);
  TestRequest other{.prompt = {3, 1, 4, 1, 5}, .steps = 3, .sampling = GreedySampling()};
  const auto output = RunPlans(options, MakePlans(options, {other, request}));
  EXPECT_TRUE(output.ok()) << output.status();
  std::map<uint32_t, v1::PromptLogprob> entries;
  if (!output.ok()) return entries;
  for (const v1::StepResult& result : output->results) {
    for (const v1::PromptLogprob& entry : result.prompt_logprobs()) {
      EXPECT_EQ(entry.sequence_id(), 1u);
      EXPECT_TRUE(entries.emplace(entry.position(), entry).second);
    }
  }
  EXPECT_EQ(entries.size(), prompt.size() - 1);
  return entries;
}

class PromptLogprobsTest : public testing::TestWithParam<std::string> {};

TEST_P(PromptLogprobsTest, AgreeWithTransformers) {
  const auto golden = nlohmann::json::parse(
      *ReadFile(kRoot / "tests/golden/models" / (GetParam() + ".json"), 16 << 20));
  // The golden logits of a greedy step are those before the token of that step, made a prompt here.
  std::vector<int32_t> prompt = golden["prompt"];
  const size_t length = prompt.size();
  for (const int32_t id : golden["greedy"]) prompt.push_back(id);
  const DriverOptions options{.model_dir = kRoot / golden["model"].get<std::string>(),
                              .layout = {},
                              .threads = 2,
                              .float32 = true};
  const auto entries = PromptLogprobs(options, prompt);
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(golden["logits_f32_base64"].get<std::string>(), &bytes));
  const size_t vocab = golden["vocab_size"];
  std::vector<float> row(vocab);
  size_t row_index = 0;
  for (const size_t step : golden["logit_steps"]) {
    std::memcpy(row.data(), bytes.data() + row_index++ * vocab * sizeof(float),
                vocab * sizeof(float));
    double sum = 0;
    for (const float logit : row) sum += std::exp(double{logit});
    const auto want = [&](int32_t id) { return row.at(static_cast<size_t>(id)) - std::log(sum); };
    const v1::PromptLogprob& entry = entries.at(static_cast<uint32_t>(length + step));
    EXPECT_NEAR(entry.logprob(), want(prompt[length + step]), kTolerance);
    ASSERT_EQ(entry.top_ids_size(), static_cast<int>(kTop));
    EXPECT_EQ(entry.top_ids(0), prompt[length + step]);  // the golden tokens are the most probable
    EXPECT_EQ(entry.top_logprobs(0), entry.logprob());
    for (int i = 0; i < entry.top_ids_size(); ++i) {
      EXPECT_NEAR(entry.top_logprobs(i), want(entry.top_ids(i)), kTolerance);
      EXPECT_GE(entry.top_logprobs(std::max(i, 1) - 1), entry.top_logprobs(i));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PromptLogprobsTest,
                         testing::Values("llama2", "llama3", "llama32", "llama_bias",
                                         "llama_linear_rope", "mistral", "mistral_window", "qwen2",
                                         "qwen3", "pilot_chat", "pilot_raw"),
                         [](const auto& info) { return info.param; });

// 90 prompt positions: more than are computed at a time, and in chunks that end anywhere.
TEST(PromptLogprobs, AreThoseOfDecodeStepsToTheBit) {
  const std::filesystem::path model = kRoot / "tests/golden/models/qwen2";
  TestRequest request{.prompt = {10, 20, 30}, .steps = 88, .sampling = GreedySampling()};
  request.sampling.set_temperature(1.5f);
  request.sampling.set_seed(1);
  request.sampling.set_logprobs(kTop);
  DriverOptions options{.model_dir = model, .layout = {}};
  const auto decoded = RunPlans(options, MakePlans(options, {request}));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  std::vector<int32_t> prompt = request.prompt;
  std::vector<v1::SampledToken> want;
  for (const v1::StepResult& result : decoded->results) {
    for (const v1::SampledToken& token : result.tokens()) {
      prompt.push_back(token.token_id());
      want.push_back(token);
    }
  }
  for (const ParallelLayout& layout :
       {ParallelLayout{}, {.tp = 2, .pp = 1}, {.tp = 1, .pp = 3}, {.tp = 2, .pp = 2}}) {
    for (const int64_t chunk : {1000, 64, 13, 1}) {
      options.layout = layout;
      options.chunk = chunk;
      options.threads = 2;
      const auto entries = PromptLogprobs(options, prompt);
      for (size_t i = 0; i < want.size(); ++i) {
        const v1::PromptLogprob& got = entries.at(static_cast<uint32_t>(3 + i));
        EXPECT_EQ(got.logprob(), want[i].logprob());
        EXPECT_TRUE(std::equal(got.top_ids().begin(), got.top_ids().end(),
                               want[i].top_ids().begin(), want[i].top_ids().end()));
        EXPECT_TRUE(std::equal(got.top_logprobs().begin(), got.top_logprobs().end(),
                               want[i].top_logprobs().begin(), want[i].top_logprobs().end()));
      }
    }
  }
}

}  // namespace
}  // namespace trireme
