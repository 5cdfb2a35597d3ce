#include "worker/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "kernels/ops.h"
#include "kernels/token_weights.h"
#include "tests/worker/gang_driver.h"
#include "worker/logit_weights.h"

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

// Gaussian logits with a few ties.
std::vector<float> RandomLogits(std::mt19937& random, size_t count) {
  std::normal_distribution<float> normal(0, 2.5f);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = std::round(normal(random) * 64) / 64;
  return logits;
}

// A random mix of all parameters.
v1::StepSampling RandomSampling(std::mt19937& random, int32_t vocab) {
  const auto pick = [&](auto... values) {
    const std::array options = {values...};
    return options[random() % options.size()];
  };
  v1::StepSampling params = GreedySampling();
  params.set_temperature(pick(0.0f, 0.3f, 1.0f, 1.0f, 3.0f));
  params.set_top_k(pick(0, 0, 1, 7, 50, 1500, vocab - 1, vocab, 1 << 30));
  params.set_top_p(pick(1.0f, 1.0f, 0.01f, 0.5f, 0.9f, 0.999f));
  params.set_min_p(pick(0.0f, 0.0f, 0.05f, 0.5f));
  params.set_repetition_penalty(pick(1.0f, 1.0f, 1.3f, 0.8f));
  params.set_presence_penalty(pick(0.0f, 0.0f, 0.7f));
  params.set_frequency_penalty(pick(0.0f, 0.0f, -0.3f));
  params.set_seed(random());
  for (int i = pick(0, 0, 1, 20); i > 0; --i) {
    params.add_bias_ids(static_cast<int32_t>(random() % static_cast<unsigned>(vocab)));
    params.add_bias(pick(-100.0f, 2.0f, 100.0f));
  }
  if (pick(0, 1) == 1) params.set_logprobs(pick(0u, 3u, 20u));
  return params;
}

// What the filters must keep, by sorting everything; drawn in the order of ids.
int32_t SlowChoice(std::vector<float> logits, const std::vector<int32_t>& tokens,
                   size_t prompt_tokens, const v1::StepSampling& params) {
  for (int i = 0; i < params.bias_size(); ++i) {
    logits[static_cast<size_t>(params.bias_ids(i))] += params.bias(i);
  }
  for (size_t id = 0; id < logits.size(); ++id) {
    const auto count = [&](size_t from) {
      return std::count(tokens.begin() + static_cast<ptrdiff_t>(from), tokens.end(),
                        static_cast<int32_t>(id));
    };
    if (count(0) == 0) continue;
    const float penalty = params.repetition_penalty();
    logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    if (count(prompt_tokens) == 0) continue;
    logits[id] -= params.presence_penalty() +
                  params.frequency_penalty() * static_cast<float>(count(prompt_tokens));
  }
  std::vector<size_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (params.temperature() == 0) return static_cast<int32_t>(ids[0]);
  const size_t best = ids[0];
  const auto weight = [&](size_t id) {
    return std::exp((double{logits[id]} - logits[best]) / params.temperature());
  };
  if (params.top_k() > 0) ids.resize(std::min(ids.size(), static_cast<size_t>(params.top_k())));
  double total = 0;
  for (const size_t id : ids) total += weight(id);
  double sum = 0;
  size_t keep = 0;
  while (keep < ids.size() && sum < params.top_p() * total) sum += weight(ids[keep++]);
  if (params.top_p() < 1) ids.resize(std::max<size_t>(1, keep));
  std::erase_if(ids, [&](size_t id) { return id != best && weight(id) < params.min_p(); });
  std::sort(ids.begin(), ids.end());
  total = 0;
  for (const size_t id : ids) total += weight(id);
  double left = UniformAt(params.seed(), tokens.size()) * total;
  for (const size_t id : ids) {
    left -= weight(id);
    if (left < 0) return static_cast<int32_t>(id);
  }
  return -1;
}

TEST(Sampler, AnyMixOfParametersAgreesWithSortingEverything) {
  std::mt19937 random(5);
  for (int round = 0; round < 400; ++round) {
    const int32_t vocab = round % 3 == 0 ? 6000 : round % 3 == 1 ? 531 : 12;
    const std::vector<float> logits = RandomLogits(random, static_cast<size_t>(vocab));
    std::vector<int32_t> tokens;
    for (int i = 0; i < 30; ++i) tokens.push_back(static_cast<int32_t>(random()) & 0xff);
    for (int32_t& token : tokens) token %= vocab;
    const v1::StepSampling params = RandomSampling(random, vocab);
    EXPECT_EQ(Greedy(logits, params, tokens, 11), SlowChoice(logits, tokens, 11, params))
        << params.ShortDebugString();
  }
}

TEST(Sampler, RowsOnSeveralThreadsAreAsOneByOne) {
  std::mt19937 random(6);
  constexpr size_t kRows = 60;
  constexpr int32_t kVocab = 3001;
  const std::vector<float> logits = RandomLogits(random, kRows * kVocab);
  const std::vector<int32_t> tokens = {5, 6, 7, 5, 5};
  std::vector<v1::StepSampling> params;
  for (size_t row = 0; row < kRows; ++row) params.push_back(RandomSampling(random, kVocab));
  const auto sample = [&](int64_t index) {
    const size_t row = static_cast<size_t>(index);
    return SampleToken({.logits = std::span(logits).subspan(row * kVocab, kVocab),
                        .token_ids = tokens,
                        .prompt_tokens = 2,
                        .params = &params[row]})
        .SerializeAsString();
  };
  const auto ops = *MakeCpuOps(4);
  std::vector<std::string> together(kRows);
  ops->ForEach(kRows, [&](int64_t row) { together[static_cast<size_t>(row)] = sample(row); });
  for (size_t row = 0; row < kRows; ++row) {
    EXPECT_EQ(together[row], sample(static_cast<int64_t>(row))) << row;
  }
}

// To half a unit and the polynomial's error.
TEST(Sampler, WeightsAreExponentials) {
  std::vector<float> logits = {0};
  for (int i = 0; i < 5000; ++i) logits.push_back(-static_cast<float>(i * i) * 3e-5f);
  for (const double temperature : {0.01, 1.0, 7.0}) {
    for (size_t i = 1; i < logits.size(); i += 13) {
      const std::array pair = {logits[0], logits[i]};
      const double want = std::exp((double{pair[1]} - pair[0]) / temperature);
      const uint64_t weight = LogitWeights(pair, temperature).Total() - kWeightOne;
      EXPECT_NEAR(static_cast<double>(weight) / 0x1p44, want, 0.501 * 0x1p-44 + 1e-14 * want);
    }
  }
}

TEST(Sampler, LogarithmOfWeights) {
  EXPECT_EQ(LogOfWeight(0), -INFINITY);
  EXPECT_EQ(LogOfWeight(kWeightOne), 0.0);
  std::mt19937_64 random(8);
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t total = (random() | uint64_t{1} << 63) >> (i % 64);
    const double want = std::log(static_cast<double>(total)) - 44 * std::log(2.0);
    EXPECT_NEAR(LogOfWeight(total), want, 1e-15 * (32 + std::abs(want))) << total;
  }
}

TEST(Sampler, BiasComesFirst) {
  v1::StepSampling params = GreedySampling();
  params.add_bias_ids(0);
  params.add_bias(2.0f);
  EXPECT_EQ(Greedy({1, 2}, params, {1}, 1), 0);
  params.set_repetition_penalty(2.0f);  // (1 + 2) / 2 < 2
  EXPECT_EQ(Greedy({1, 2}, params, {0}, 1), 1);
  params.set_logprobs(1);  // of the raw logits
  const std::vector<float> logits = {1, 2};
  const std::vector<int32_t> tokens = {1};
  const v1::SampledToken token =
      SampleToken({.logits = logits, .token_ids = tokens, .prompt_tokens = 1, .params = &params});
  EXPECT_EQ(token.token_id(), 0);
  EXPECT_EQ(token.top_ids(0), 1);
  EXPECT_NEAR(token.logprob(), 1 - std::log(std::exp(1.0) + std::exp(2.0)), 1e-6);
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
