#include "worker/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

// Draws many tokens at different positions and counts them.
std::map<int32_t, int> Histogram(const std::vector<float>& logits, const v1::StepSampling& params,
                                 int draws) {
  std::map<int32_t, int> counts;
  std::vector<int32_t> history;
  for (int i = 0; i < draws; ++i) {
    history.push_back(0);
    SamplingInput input{
        .logits = logits, .token_ids = history, .prompt_tokens = history.size(), .params = &params};
    ++counts[SampleToken(input).token_id()];
  }
  return counts;
}

v1::StepSampling Sampling(float temperature) {
  v1::StepSampling params = GreedySampling();
  params.set_temperature(temperature);
  params.set_seed(7);
  return params;
}

int32_t Greedy(const std::vector<float>& logits, const v1::StepSampling& params,
               const std::vector<int32_t>& tokens, size_t prompt_tokens) {
  return SampleToken({.logits = logits,
                      .token_ids = tokens,
                      .prompt_tokens = prompt_tokens,
                      .params = &params})
      .token_id();
}

TEST(Sampler, GreedyTakesLargestAndOfEqualsTheFirst) {
  const v1::StepSampling params = GreedySampling();
  EXPECT_EQ(Greedy({1, 3, 2, 3}, params, {0}, 1), 1);
}

TEST(Sampler, FrequenciesFollowSoftmax) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  for (const float temperature : {0.7f, 1.0f, 2.0f}) {
    constexpr int kDraws = 40'000;
    const auto counts = Histogram(logits, Sampling(temperature), kDraws);
    double total = 0;
    for (const float logit : logits) total += std::exp(logit / temperature);
    for (int32_t id = 0; id < 4; ++id) {
      const double p = std::exp(logits[static_cast<size_t>(id)] / temperature) / total;
      const double sigma = std::sqrt(p * (1 - p) / kDraws);
      EXPECT_NEAR(counts.at(id) / double{kDraws}, p, 5 * sigma) << temperature << " " << id;
    }
  }
}

TEST(Sampler, TopKTopPMinPCutTheTail) {
  // Probabilities 0.5, 0.25, 0.125, 0.125 at ids 2, 0, 3, 1.
  const std::vector<float> logits = {std::log(0.25f), std::log(0.125f), std::log(0.5f),
                                     std::log(0.125f)};
  v1::StepSampling params = Sampling(1.0f);
  params.set_top_k(2);
  EXPECT_EQ(Histogram(logits, params, 500).size(), 2u);
  params = Sampling(1.0f);
  params.set_top_p(0.74f);
  EXPECT_EQ(Histogram(logits, params, 500).size(), 2u);
  params.set_top_p(0.76f);
  EXPECT_EQ(Histogram(logits, params, 500).size(), 3u);
  params.set_top_p(1e-6f);
  EXPECT_EQ(Histogram(logits, params, 500).size(), 1u);
  params = Sampling(1.0f);
  params.set_min_p(0.4f);
  EXPECT_EQ(Histogram(logits, params, 500).size(), 2u);
  params.set_min_p(1.0f);
  EXPECT_EQ(Histogram(logits, params, 500).size(), 1u);
}

TEST(Sampler, PenaltiesFollowTheirFormulas) {
  v1::StepSampling params = GreedySampling();
  params.set_repetition_penalty(2.0f);  // prompt and output: 4 / 2 < 3
  EXPECT_EQ(Greedy({4, 3}, params, {0}, 1), 1);
  EXPECT_EQ(Greedy({-1, -1.5f}, params, {0}, 1), 1);  // negative logits are multiplied
  params = GreedySampling();
  params.set_presence_penalty(1.5f);  // output only
  EXPECT_EQ(Greedy({4, 3}, params, {0}, 1), 0);
  EXPECT_EQ(Greedy({4, 3}, params, {1, 0}, 1), 1);
  params = GreedySampling();
  params.set_frequency_penalty(0.4f);
  EXPECT_EQ(Greedy({4, 3}, params, {1, 0, 0}, 1), 0);
  EXPECT_EQ(Greedy({4, 3}, params, {1, 0, 0, 0}, 1), 1);
}

TEST(Sampler, LogprobsAreOfTheRawLogits) {
  v1::StepSampling params = GreedySampling();
  params.set_logprobs(2);
  const std::vector<float> logits = {1, 2, 0};
  const std::vector<int32_t> tokens = {0};
  const v1::SampledToken token =
      SampleToken({.logits = logits, .token_ids = tokens, .prompt_tokens = 1, .params = &params});
  const double total = std::log(std::exp(1.0) + std::exp(2.0) + 1.0);
  EXPECT_NEAR(token.logprob(), 2 - total, 1e-6);
  ASSERT_EQ(token.top_ids_size(), 2);
  EXPECT_EQ(token.top_ids(0), 1);
  EXPECT_EQ(token.top_ids(1), 0);
  EXPECT_NEAR(token.top_logprobs(1), 1 - total, 1e-6);
}

TEST(Sampler, SurvivesNotANumberAndInfinity) {
  for (const float temperature : {0.0f, 1e-30f, 0.5f, 1.0f, 100.0f}) {
    EXPECT_EQ(Greedy({NAN, -INFINITY, 1.0f, NAN}, Sampling(temperature), {0}, 1), 2);
    EXPECT_EQ(Greedy({1.0f, INFINITY, 2.0f}, Sampling(temperature), {0}, 1), 1);
  }
  v1::StepSampling extreme = Sampling(1.0f);
  extreme.set_repetition_penalty(1e-38f);
  EXPECT_EQ(Greedy({1.0f, 5.0f, 2.0f}, extreme, {2}, 1), 2);
}

// Philox4x32-10's published test vectors (Random123 kat_vectors): counter and key all zero, first
// words 6627e8d5 e169c58d.
TEST(Sampler, RandomNumbersArePhilox) {
  const uint64_t bits = (uint64_t{0x6627e8d5} << 32 | 0xe169c58d) >> 11;
  EXPECT_EQ(UniformAt(0, 0), static_cast<double>(bits) * 0x1p-53);
  EXPECT_NE(UniformAt(0, 1), UniformAt(0, 0));
  EXPECT_NE(UniformAt(1, 0), UniformAt(0, 0));
}

}  // namespace
}  // namespace trireme
