#include "cluster/bench_serve_workload.h"

#include <gtest/gtest.h>

#include <set>

namespace trireme {
namespace {

constexpr uint32_t kContext = 256;
constexpr uint32_t kVocabulary = 500;

WorkloadOptions Options(const std::string& input, const std::string& output) {
  return {.input_len = *LengthDistribution::Parse(input),
          .output_len = *LengthDistribution::Parse(output)};
}

Workload Make(const WorkloadOptions& options) {
  auto workload = Workload::Create(options, kContext, kVocabulary);
  EXPECT_TRUE(workload.ok()) << workload.status();
  return *workload;
}

std::vector<int32_t> Ids(const Workload::Request& request) {
  const auto& ids = request.message.prompt_token_ids().ids();
  return {ids.begin(), ids.end()};
}

TEST(WorkloadTest, RequestsDependOnSeedAndNumberOnly) {
  WorkloadOptions options = Options("uniform:5:50", "uniform:1:9");
  options.random_sampling = true;
  const Workload one = Make(options), same = Make(options);
  options.seed = 1;
  const Workload other = Make(options);
  same.Make(3);
  for (uint64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(one.Make(i).message.SerializeAsString(), same.Make(i).message.SerializeAsString());
    EXPECT_NE(Ids(one.Make(i)), Ids(other.Make(i)));
    EXPECT_NE(Ids(one.Make(i)), Ids(one.MakeWarmup(i)));
    EXPECT_NE(Ids(one.Make(i)), Ids(one.Make(i + 1)));
  }
}

TEST(WorkloadTest, LengthsTokensAndSamplingAreAsAskedFor) {
  WorkloadOptions options = Options("32", "8");
  const Workload workload = Make(options);
  const Workload::Request request = workload.Make(0);
  EXPECT_FALSE(request.clamped);
  EXPECT_EQ(Ids(request).size(), 32u);
  for (const int32_t id : Ids(request)) EXPECT_TRUE(id >= 0 && id < int32_t{kVocabulary});
  const v1::SamplingParams& sampling = request.message.sampling();
  EXPECT_EQ(sampling.max_tokens(), 8u);
  EXPECT_TRUE(sampling.ignore_eos());
  EXPECT_TRUE(sampling.has_temperature());
  EXPECT_EQ(sampling.temperature(), 0);
  EXPECT_FALSE(sampling.has_seed());
  EXPECT_FALSE(request.message.has_scheduling());
}

TEST(WorkloadTest, PrefixesTenantsAndPriority) {
  WorkloadOptions options = Options("4", "8");
  options.prefix_len = 16;
  options.prefix_count = 3;
  options.tenants = 2;
  options.random_sampling = true;
  options.priority = v1::PRIORITY_BATCH;
  const Workload workload = Make(options);
  std::set<std::vector<int32_t>> prefixes, rests;
  std::set<std::string> tenants;
  for (uint64_t i = 0; i < 100; ++i) {
    const Workload::Request request = workload.Make(i);
    const std::vector<int32_t> ids = Ids(request);
    ASSERT_EQ(ids.size(), 20u);
    prefixes.emplace(ids.begin(), ids.begin() + 16);
    rests.emplace(ids.begin() + 16, ids.end());
    tenants.insert(request.message.scheduling().tenant());
    EXPECT_EQ(request.message.scheduling().priority(), v1::PRIORITY_BATCH);
    EXPECT_EQ(request.message.sampling().temperature(), 1);
    EXPECT_TRUE(request.message.sampling().has_seed());
  }
  EXPECT_EQ(prefixes.size(), 3u);
  EXPECT_EQ(rests.size(), 100u);
  EXPECT_EQ(tenants, (std::set<std::string>{"bench-0", "bench-1"}));
}

TEST(WorkloadTest, LongDrawsAreShortenedToTheContext) {
  WorkloadOptions options = Options("exponential:300", "uniform:10:400");
  options.prefix_len = 40;
  const Workload workload = Make(options);
  int clamped = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    const Workload::Request request = workload.Make(i);
    const size_t input = Ids(request).size();
    const uint32_t output = request.message.sampling().max_tokens();
    EXPECT_GT(input, 40u);
    EXPECT_GE(output, 10u);
    EXPECT_LE(input + output, kContext);
    clamped += request.clamped;
  }
  EXPECT_GT(clamped, 50);
  EXPECT_LT(clamped, 200);
}

TEST(WorkloadTest, WhatCannotFitIsRefused) {
  EXPECT_TRUE(Workload::Create(Options("248", "8"), kContext, kVocabulary).ok());
  EXPECT_FALSE(Workload::Create(Options("249", "8"), kContext, kVocabulary).ok());
  WorkloadOptions options = Options("100", "8");
  options.prefix_len = 149;
  EXPECT_FALSE(Workload::Create(options, kContext, kVocabulary).ok());
  options.prefix_len = 0;
  options.intrude_len = kContext - 1;
  EXPECT_TRUE(Workload::Create(options, kContext, kVocabulary).ok());
  options.intrude_len = kContext;
  EXPECT_FALSE(Workload::Create(options, kContext, kVocabulary).ok());
  options.prefix_len = UINT32_MAX;
  EXPECT_FALSE(Workload::Create(options, kContext, kVocabulary).ok());
  EXPECT_FALSE(Workload::Create(Options("1", "1"), 0, 0).ok());
}

TEST(WorkloadTest, TheIntruderHasItsOwnPrompt) {
  WorkloadOptions options = Options("4", "8");
  options.prefix_len = 16;
  options.intrude_len = 200;
  const Workload::Request intruder = Make(options).MakeIntruder();
  EXPECT_EQ(Ids(intruder).size(), 200u);
  EXPECT_EQ(intruder.message.sampling().max_tokens(), 1u);
}

}  // namespace
}  // namespace trireme
