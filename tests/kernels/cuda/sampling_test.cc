#include "kernels/cuda/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/sampling_batch.h"
#include "tests/kernels/cuda/device_array.h"
#include "worker/sampler.h"

namespace trireme::cuda {
namespace {

// One sequence with its logits.
struct Case {
  std::vector<float> logits = {};
  std::vector<int32_t> tokens = {0};
  size_t prompt_tokens = 1;
  v1::StepSampling params = {};
};

v1::StepSampling Sampling(float temperature) {
  v1::StepSampling params;
  params.set_temperature(temperature);
  params.set_top_p(1.0f);
  params.set_repetition_penalty(1.0f);
  params.set_seed(7);
  return params;
}

SamplingRow RowOf(const Case& c, int32_t sequence) {
  SamplingRow row;
  row.params = {
      .seed = c.params.seed(),
      .position = static_cast<int64_t>(c.tokens.size()),
      .temperature = c.params.temperature(),
      .top_k = static_cast<int32_t>(c.params.top_k()),
      .top_p = c.params.top_p(),
      .min_p = c.params.min_p(),
      .repetition_penalty = c.params.repetition_penalty(),
      .presence_penalty = c.params.presence_penalty(),
      .frequency_penalty = c.params.frequency_penalty(),
      .logprobs = c.params.has_logprobs() ? static_cast<int32_t>(c.params.logprobs()) : -1,
      .sequence = sequence};
  row.bias_ids = {c.params.bias_ids().data(), static_cast<size_t>(c.params.bias_ids_size())};
  row.biases = {c.params.bias().data(), static_cast<size_t>(c.params.bias_size())};
  return row;
}

v1::SampledToken OnCpu(const Case& c) {
  return SampleToken({.logits = c.logits,
                      .token_ids = c.tokens,
                      .prompt_tokens = c.prompt_tokens,
                      .params = &c.params});
}

template <class Message>
void ExpectLogprobs(const TokenLogprobs& got, const Message& want, const std::string& what) {
  EXPECT_TRUE(got.logprob == want.logprob() ||
              (std::isnan(got.logprob) && std::isnan(want.logprob())))
      << what << ": " << got.logprob << ", not " << want.logprob();
  ASSERT_EQ(got.top_count, want.top_ids_size()) << what;
  for (int i = 0; i < got.top_count; ++i) {
    EXPECT_EQ(got.top_ids[i], want.top_ids(i)) << what << " " << i;
    const float logprob = got.top_logprobs[i];
    EXPECT_TRUE(logprob == want.top_logprobs(i) ||
                (std::isnan(logprob) && std::isnan(want.top_logprobs(i))))
        << what << " " << i << ": " << logprob << ", not " << want.top_logprobs(i);
  }
}

// Rows of logits behind one another, with a gap that nobody may read or write.
constexpr int64_t kGap = 3;

DeviceArray<float> Upload(const std::vector<Case>& cases, size_t rows, size_t vocab) {
  std::vector<float> logits(rows * (vocab + kGap), NAN);
  for (size_t row = 0; row < cases.size(); ++row) {
    std::copy(cases[row].logits.begin(), cases[row].logits.end(),
              logits.begin() + static_cast<ptrdiff_t>(row * (vocab + kGap)));
  }
  return DeviceArray<float>(logits);
}

// The lists of seen tokens of several sequences. Sequence i is the i-th from the end, so that rows
// and sequences differ.
struct DeviceSeen {
  explicit DeviceSeen(const std::vector<Case>& cases, int32_t capacity)
      : capacity(capacity), tokens(Lists(cases, capacity)), counts(Counts(cases)) {}

  static std::vector<SeenToken> Lists(const std::vector<Case>& cases, int32_t capacity) {
    std::vector<SeenToken> lists(cases.size() * static_cast<size_t>(capacity), {-1, -1});
    for (size_t i = 0; i < cases.size(); ++i) {
      const auto seen = CountSeen(cases[i].tokens, cases[i].prompt_tokens);
      std::copy(seen.begin(), seen.end(),
                lists.begin() + static_cast<ptrdiff_t>(Sequence(cases, i) * capacity));
    }
    return lists;
  }
  static std::vector<int32_t> Counts(const std::vector<Case>& cases) {
    std::vector<int32_t> counts(cases.size());
    for (size_t i = 0; i < cases.size(); ++i) {
      counts[static_cast<size_t>(Sequence(cases, i))] =
          static_cast<int32_t>(CountSeen(cases[i].tokens, cases[i].prompt_tokens).size());
    }
    return counts;
  }
  static int32_t Sequence(const std::vector<Case>& cases, size_t row) {
    return static_cast<int32_t>(cases.size() - 1 - row);
  }
  SeenTokens view() { return {tokens.data(), counts.data(), capacity}; }

  int32_t capacity;
  DeviceArray<SeenToken> tokens;
  DeviceArray<int32_t> counts;
};

constexpr int32_t kUntouched = -77;

// Samples all cases in one batch with two padding rows, and compares with the CPU. Returns the
// tokens.
std::vector<int32_t> ExpectAsOnCpu(const std::vector<Case>& cases, DeviceSeen& seen,
                                   bool all_kernels = false) {
  const int32_t vocab = static_cast<int32_t>(cases[0].logits.size());
  const size_t rows = cases.size() + 2;
  SamplingBatch batch(vocab);
  for (size_t i = 0; i < cases.size(); ++i) {
    EXPECT_TRUE(batch.Add(RowOf(cases[i], DeviceSeen::Sequence(cases, i))).ok());
  }
  batch.PadTo(rows);
  const DeviceArray<float> logits = Upload(cases, rows, static_cast<size_t>(vocab));
  const std::vector<float> logits_before = logits.ToHost();
  const DeviceArray<SamplingParams> params(
      std::vector<SamplingParams>(batch.params().begin(), batch.params().end()));
  const DeviceArray<TokenBias> biases(
      std::vector<TokenBias>(batch.biases().begin(), batch.biases().end()));
  DeviceArray<int32_t> ids(std::vector<int32_t>(rows, kUntouched));
  DeviceArray<TokenLogprobs> logprobs(std::vector<TokenLogprobs>(rows, {.top_count = kUntouched}));
  // No content of the workspace may matter.
  DeviceArray<std::byte> workspace(
      std::vector<std::byte>(SampleWorkspaceBytes(static_cast<int>(rows), vocab), std::byte{0x5a}));
  Sample({.logits = logits.data(),
          .stride = vocab + kGap,
          .rows = static_cast<int>(rows),
          .vocab_size = vocab,
          .needs = all_kernels ? SamplingNeeds{true, true, true, true} : batch.needs(),
          .params = params.data(),
          .biases = biases.data(),
          .seen = seen.view(),
          .token_ids = ids.data(),
          .logprobs = logprobs.data(),
          .workspace = workspace.data()});
  const std::vector<int32_t> got = ids.ToHost();
  for (size_t i = 0; i < cases.size(); ++i) {
    const v1::SampledToken want = OnCpu(cases[i]);
    const std::string what = "row " + std::to_string(i) + " of " + std::to_string(vocab) + " " +
                             cases[i].params.ShortDebugString();
    EXPECT_EQ(got[i], want.token_id()) << what;
    const TokenLogprobs row_logprobs = logprobs.ToHost()[i];
    if (cases[i].params.has_logprobs()) {
      ExpectLogprobs(row_logprobs, want, what);
    } else {
      EXPECT_EQ(row_logprobs.top_count, kUntouched) << what;
    }
  }
  for (size_t i = cases.size(); i < rows; ++i) {
    EXPECT_EQ(got[i], -1);
    EXPECT_EQ(logprobs.ToHost()[i].top_count, kUntouched);
  }
  const std::vector<float> logits_after = logits.ToHost();
  EXPECT_EQ(std::memcmp(logits_before.data(), logits_after.data(), logits_after.size() * 4), 0);
  return {got.begin(), got.begin() + static_cast<ptrdiff_t>(cases.size())};
}

void ExpectAsOnCpu(const std::vector<Case>& cases) {
  DeviceSeen seen(cases, 64);
  ExpectAsOnCpu(cases, seen);
}

std::vector<float> RandomLogits(std::mt19937& random, size_t count, float step) {
  std::normal_distribution<float> normal(0, 2.5f);
  std::vector<float> logits(count);
  for (float& logit : logits) {
    logit = normal(random);
    if (step > 0) logit = std::round(logit / step) * step;
  }
  return logits;
}

// A random mix of all parameters.
v1::StepSampling RandomSampling(std::mt19937& random, int32_t vocab) {
  const auto pick = [&](auto... values) {
    const std::array options = {values...};
    return options[random() % options.size()];
  };
  v1::StepSampling params = Sampling(pick(0.0f, 0.3f, 1.0f, 1.0f, 3.0f, 1e-4f, 1e6f));
  params.set_top_k(pick(0, 0, 1, 7, 50, 1500, vocab - 1, vocab, 1 << 30));
  params.set_top_p(pick(1.0f, 1.0f, 0.01f, 0.5f, 0.9f, 0.999f, 1e-20f));
  params.set_min_p(pick(0.0f, 0.0f, 0.05f, 0.5f, 1e-12f, 1.0f));
  params.set_repetition_penalty(pick(1.0f, 1.0f, 1.3f, 0.8f));
  params.set_presence_penalty(pick(0.0f, 0.0f, 0.7f));
  params.set_frequency_penalty(pick(0.0f, 0.0f, -0.3f));
  params.set_seed(uint64_t{random()} << 32 | random());
  for (int i = pick(0, 0, 1, 20, 300); i > 0; --i) {
    params.add_bias_ids(static_cast<int32_t>(random() % static_cast<unsigned>(vocab)));
    params.add_bias(pick(-100.0f, 2.0f, 0.1f, 100.0f));
  }
  if (pick(0, 1) == 1) params.set_logprobs(pick(0u, 1u, 3u, 20u));
  return params;
}

Case RandomCase(std::mt19937& random, int32_t vocab) {
  const float steps[] = {0, 1.0f / 64, 1.0f};
  Case c{.logits = RandomLogits(random, static_cast<size_t>(vocab), steps[random() % 3])};
  c.tokens.resize(1 + random() % 40);
  for (int32_t& token : c.tokens) token = static_cast<int32_t>(random() % 50) % vocab;
  c.prompt_tokens = 1 + random() % c.tokens.size();
  c.params = RandomSampling(random, vocab);
  return c;
}

TEST(CudaSampling, AnyMixOfParametersChoosesTheCpusToken) {
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    const int32_t vocabs[] = {12, 531, 4096, 6001, 1, 12289};
    std::vector<Case> cases;
    for (int row = 0; row < 7; ++row) cases.push_back(RandomCase(random, vocabs[round % 6]));
    DeviceSeen seen(cases, 64);
    ExpectAsOnCpu(cases, seen, round % 2 == 0);
  }
}

TEST(CudaSampling, AVocabularyOfManySlices) {
  std::mt19937 random(6);
  std::vector<Case> cases;
  for (int row = 0; row < 4; ++row) cases.push_back(RandomCase(random, 131'073));
  cases[0].params = Sampling(1.0f);
  cases[0].params.set_logprobs(20);
  cases[1].params = Sampling(0.8f);
  cases[1].params.set_top_p(0.95f);
  cases[2].params = Sampling(1.0f);
  cases[2].params.set_top_k(40);
  ExpectAsOnCpu(cases);
}

TEST(CudaSampling, ManyDrawsOfPlainTemperature) {
  std::mt19937 random(7);
  for (int round = 0; round < 4; ++round) {
    const std::vector<float> logits = RandomLogits(random, 700, 0);
    std::vector<Case> cases;
    for (int row = 0; row < 60; ++row) {
      cases.push_back({.logits = logits, .params = Sampling(1.5f)});
      cases.back().params.set_seed(random());
    }
    ExpectAsOnCpu(cases);
  }
}

// Every token has one of three logits: borders of top_k and top_p are among equals.
TEST(CudaSampling, OfEqualsTheSmallerIdIsBetter) {
  std::mt19937 random(8);
  for (const int32_t vocab : {9, 5000}) {
    std::vector<Case> cases;
    for (const float temperature : {0.0f, 1.0f}) {
      for (const int top_k : {1, 2, vocab / 3, vocab / 2, vocab - 1}) {
        Case c{.params = Sampling(temperature)};
        for (int32_t id = 0; id < vocab; ++id) {
          c.logits.push_back(static_cast<float>(random() % 3) - 1.0f);
          if (c.logits.back() == 0 && random() % 2 == 0) c.logits.back() = -0.0f;
        }
        c.params.set_top_k(static_cast<unsigned>(top_k));
        c.params.set_top_p(0.71f);
        c.params.set_logprobs(7);
        cases.push_back(c);
      }
    }
    ExpectAsOnCpu(cases);
    for (Case& c : cases) std::fill(c.logits.begin(), c.logits.end(), 3.25f);
    ExpectAsOnCpu(cases);
  }
}

TEST(CudaSampling, AwkwardLogits) {
  constexpr size_t kVocab = 4100;  // two slices
  const std::vector<float> all_nan(kVocab, NAN);
  const std::vector<float> all_least(kVocab, -INFINITY);
  std::vector<float> most_nan = all_nan;
  most_nan[4099] = -INFINITY;
  most_nan[17] = -INFINITY;
  std::vector<float> one_number = most_nan;
  one_number[4097] = -3e38f;
  std::vector<float> infinite = one_number;
  infinite[5] = INFINITY;
  infinite[4098] = INFINITY;
  std::vector<float> wide = all_least;
  for (size_t i = 0; i < 40; ++i) wide[i * 100] = i % 2 == 0 ? 3.4e38f : -3.4e38f;
  std::vector<float> small(kVocab, 1e-45f);
  small[3] = -1e-45f;
  small[4000] = 0.0f;
  for (const auto& logits : {all_nan, all_least, most_nan, one_number, infinite, wide, small}) {
    std::vector<Case> cases;
    for (const float temperature : {0.0f, 1e-5f, 1.0f, 3e38f}) {
      for (const int filter : {0, 1, 2, 3}) {
        Case c{.logits = logits, .params = Sampling(temperature)};
        if (filter == 1) c.params.set_top_k(1);
        if (filter == 2) c.params.set_top_p(1e-38f);
        if (filter == 3) {
          c.params.set_top_k(4099);
          c.params.set_top_p(0.9999999f);
          c.params.set_min_p(1.0f);
        }
        c.params.set_logprobs(20);
        cases.push_back(c);
      }
    }
    ExpectAsOnCpu(cases);
  }
}

TEST(CudaSampling, AwkwardPenaltiesAndBiases) {
  std::mt19937 random(9);
  std::vector<Case> cases;
  for (int i = 0; i < 8; ++i) {
    Case c{.logits = RandomLogits(random, 300, 0),
           .tokens = {5, 299, 5, 0, 7},
           .prompt_tokens = 2,
           .params = Sampling(i % 2 == 0 ? 0.0f : 1.0f)};
    if (i / 2 == 0) c.params.set_repetition_penalty(1e-38f);
    if (i / 2 == 1) c.params.set_repetition_penalty(1e38f);
    if (i / 2 == 2) c.params.set_frequency_penalty(-2e38f);
    if (i / 2 == 3) {
      // The order in which one token's biases are added shows.
      for (const float bias : {1e9f, 1.0f, -1e9f, 0.25f}) {
        c.params.add_bias_ids(7);
        c.params.add_bias(bias);
      }
      c.params.add_bias_ids(3);
      c.params.add_bias(-INFINITY);
    }
    cases.push_back(c);
  }
  ExpectAsOnCpu(cases);
}

// Several steps: the device adds what it sampled to its lists.
TEST(CudaSampling, PenaltiesFollowTheOutput) {
  std::mt19937 random(10);
  std::vector<Case> cases;
  for (int row = 0; row < 3; ++row) {
    Case c{.logits = RandomLogits(random, 40, 0),
           .tokens = {1, 2, 1},
           .prompt_tokens = 3,
           .params = Sampling(row == 0 ? 0.0f : 0.7f)};
    c.params.set_repetition_penalty(1.1f);
    c.params.set_presence_penalty(0.2f);
    c.params.set_frequency_penalty(0.4f);
    cases.push_back(c);
  }
  DeviceSeen seen(cases, 40);
  for (int step = 0; step < 12; ++step) {
    const std::vector<int32_t> tokens = ExpectAsOnCpu(cases, seen);
    for (size_t row = 0; row < cases.size(); ++row) cases[row].tokens.push_back(tokens[row]);
  }
  const DeviceSeen want(cases, 40);
  EXPECT_EQ(seen.counts.ToHost(), want.counts.ToHost());
  for (size_t i = 0; i < want.tokens.ToHost().size(); ++i) {
    EXPECT_EQ(seen.tokens.ToHost()[i].id, want.tokens.ToHost()[i].id) << i;
    EXPECT_EQ(seen.tokens.ToHost()[i].in_output, want.tokens.ToHost()[i].in_output) << i;
  }
}

template <class T>
void Write(const DeviceArray<T>& array, std::span<const T> values) {
  ASSERT_LE(values.size(), array.size());
  EXPECT_EQ(cudaMemcpy(array.data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice),
            cudaSuccess);
}

// A captured step, replayed with other logits and other parameters in the same memory.
TEST(CudaSampling, AGraphOfAStepServesTheNextSteps) {
  std::mt19937 random(12);
  constexpr int32_t kVocab = 4500;
  constexpr size_t kRows = 3;
  constexpr int32_t kCapacity = 64;
  DeviceArray<float> logits(kRows * kVocab);
  DeviceArray<SamplingParams> params(kRows);
  DeviceArray<TokenBias> biases(kRows * 400);
  DeviceArray<SeenToken> seen(kRows * kCapacity);
  DeviceArray<int32_t> seen_counts(kRows);
  DeviceArray<int32_t> ids(kRows);
  DeviceArray<TokenLogprobs> logprobs(kRows);
  DeviceArray<std::byte> workspace(SampleWorkspaceBytes(kRows, kVocab));
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  Sample({.logits = logits.data(),
          .stride = kVocab,
          .rows = kRows,
          .vocab_size = kVocab,
          .needs = {true, true, true, true},
          .params = params.data(),
          .biases = biases.data(),
          .seen = {seen.data(), seen_counts.data(), kCapacity},
          .token_ids = ids.data(),
          .logprobs = logprobs.data(),
          .workspace = workspace.data(),
          .stream = stream});
  cudaGraph_t graph;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
  for (int step = 0; step < 8; ++step) {
    std::vector<Case> cases;
    for (size_t row = 0; row < kRows; ++row) cases.push_back(RandomCase(random, kVocab));
    SamplingBatch batch(kVocab);
    std::vector<float> all_logits;
    for (size_t row = 0; row < kRows; ++row) {
      ASSERT_TRUE(batch.Add(RowOf(cases[row], DeviceSeen::Sequence(cases, row))).ok());
      all_logits.insert(all_logits.end(), cases[row].logits.begin(), cases[row].logits.end());
    }
    Write(logits, std::span<const float>(all_logits));
    Write(params, batch.params());
    Write(biases, batch.biases());
    Write(seen, std::span<const SeenToken>(DeviceSeen::Lists(cases, kCapacity)));
    Write(seen_counts, std::span<const int32_t>(DeviceSeen::Counts(cases)));
    ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    for (size_t row = 0; row < kRows; ++row) {
      const v1::SampledToken want = OnCpu(cases[row]);
      const std::string what = std::to_string(step) + " " + std::to_string(row);
      EXPECT_EQ(ids.ToHost()[row], want.token_id()) << what;
      if (cases[row].params.has_logprobs()) ExpectLogprobs(logprobs.ToHost()[row], want, what);
    }
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST(CudaSampling, PromptLogprobsAreTheCpus) {
  std::mt19937 random(11);
  for (const int32_t vocab : {2, 15, 4097, 9000}) {
    std::vector<Case> cases;
    std::vector<LogprobRequest> requests;
    for (const int top_count : {0, 1, -1, 5, 20}) {
      cases.push_back({.logits = RandomLogits(random, static_cast<size_t>(vocab), 0.25f)});
      requests.push_back({.token_id = static_cast<int32_t>(random()) & 1, .top_count = top_count});
    }
    const DeviceArray<float> logits = Upload(cases, cases.size(), static_cast<size_t>(vocab));
    const DeviceArray<LogprobRequest> on_device(requests);
    DeviceArray<TokenLogprobs> logprobs(
        std::vector<TokenLogprobs>(cases.size(), {.top_count = kUntouched}));
    DeviceArray<std::byte> workspace(std::vector<std::byte>(
        LogprobWorkspaceBytes(static_cast<int>(cases.size()), vocab), std::byte{0xa5}));
    TokenLogprobsOf({.logits = logits.data(),
                     .stride = vocab + kGap,
                     .rows = static_cast<int>(cases.size()),
                     .vocab_size = vocab,
                     .requests = on_device.data(),
                     .logprobs = logprobs.data(),
                     .workspace = workspace.data()});
    for (size_t i = 0; i < cases.size(); ++i) {
      const TokenLogprobs got = logprobs.ToHost()[i];
      if (requests[i].top_count < 0) {
        EXPECT_EQ(got.top_count, kUntouched);
        continue;
      }
      ExpectLogprobs(got,
                     PromptTokenLogprob(cases[i].logits, requests[i].token_id,
                                        static_cast<uint32_t>(requests[i].top_count)),
                     std::to_string(vocab) + " " + std::to_string(i));
    }
  }
}

TEST(SamplingBatch, KnowsWhatItNeeds) {
  const auto needs = [](auto... change) {
    SamplingRow row{.params = {.temperature = 1, .sequence = 0}};
    (change(row.params), ...);
    SamplingBatch batch(100);
    EXPECT_TRUE(batch.Add(row).ok());
    batch.PadTo(8);
    EXPECT_EQ(batch.params().size(), 8u);
    EXPECT_EQ(batch.params()[7].sequence, -1);
    return batch.needs();
  };
  using P = SamplingParams;
  EXPECT_EQ(needs(), SamplingNeeds());
  EXPECT_EQ(needs([](P& p) { p.top_k = 99; }), SamplingNeeds{.top_k = true});
  EXPECT_EQ(needs([](P& p) { p.top_k = 100; }), SamplingNeeds());
  EXPECT_EQ(needs([](P& p) { p.top_p = 0.9f; }), SamplingNeeds{.top_p = true});
  EXPECT_EQ(needs([](P& p) { p.top_p = 0.9f; }, [](P& p) { p.temperature = 0; }), SamplingNeeds());
  EXPECT_EQ(needs([](P& p) { p.logprobs = 0; }), SamplingNeeds{.logprobs = true});
  EXPECT_EQ(needs([](P& p) { p.frequency_penalty = 0.1f; }), SamplingNeeds{.changes = true});
}

TEST(SamplingBatch, SortsBiasesAndKeepsTheOrderOfEqualIds) {
  SamplingBatch batch(100);
  const std::vector<int32_t> ids = {7, 3, 7};
  const std::vector<float> biases = {1, 2, 3};
  ASSERT_TRUE(batch.Add({.bias_ids = ids, .biases = biases}).ok());
  ASSERT_TRUE(
      batch.Add({.bias_ids = std::span(ids).first(1), .biases = std::span(biases).first(1)}).ok());
  ASSERT_EQ(batch.biases().size(), 4u);
  const std::pair<int32_t, float> want[] = {{3, 2}, {7, 1}, {7, 3}, {7, 1}};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(batch.biases()[i].id, want[i].first);
    EXPECT_EQ(batch.biases()[i].bias, want[i].second);
  }
  EXPECT_EQ(batch.params()[0].bias_count, 3);
  EXPECT_EQ(batch.params()[1].bias_begin, 3);
  EXPECT_EQ(batch.params()[1].bias_count, 1);
}

TEST(SamplingBatch, RefusesWhatTheKernelsCannotTake) {
  SamplingBatch batch(100);
  const std::vector<int32_t> ids = {100};
  const std::vector<float> biases = {1};
  EXPECT_EQ(batch.Add({.bias_ids = ids, .biases = biases}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(batch.Add({.bias_ids = ids}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(batch.Add({.params = {.logprobs = 21}}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(batch.params().empty());
  EXPECT_TRUE(batch.biases().empty());
}

TEST(CountSeen, CountsTheOutputOnly) {
  const std::vector<int32_t> tokens = {4, 9, 4, 4, 2, 2, 9};
  const std::vector<SeenToken> seen = CountSeen(tokens, 3);
  const std::pair<int32_t, int32_t> want[] = {{4, 1}, {9, 1}, {2, 2}};
  ASSERT_EQ(seen.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(seen[i].id, want[i].first);
    EXPECT_EQ(seen[i].in_output, want[i].second);
  }
}

}  // namespace
}  // namespace trireme::cuda
