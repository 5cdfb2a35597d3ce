#include "cluster/sampling_flags.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

struct Parsed {
  int code = 0;
  std::string prompt;
  v1::SamplingParams params;
  v1::Scheduling scheduling;
};

Parsed Parse(const std::string& line, bool generate = true) {
  Parsed parsed;
  CLI::App app;
  SamplingFlags flags;
  app.add_option("prompt", parsed.prompt);
  flags.Define(app);
  if (generate) flags.DefineForGenerate(app);
  try {
    app.parse(line);
  } catch (const CLI::ParseError& error) {
    parsed.code = error.get_exit_code();
  }
  parsed.params = flags.Params();
  parsed.scheduling = flags.Scheduling();
  return parsed;
}

TEST(SamplingFlagsTest, WhatIsNotGivenIsNotSent) {
  EXPECT_EQ(Parse("hello").params.ByteSizeLong(), 0u);
  EXPECT_EQ(Parse("hello").scheduling.ByteSizeLong(), 0u);
}

TEST(SamplingFlagsTest, TakesEveryParameter) {
  const Parsed parsed = Parse(
      "--logit-bias 3=-100,17=2.5 --prompt-logprobs 4 --logprobs 0 --best-of 5 --n 2 "
      "--priority high --tenant acme --cache-salt s3 hello");
  EXPECT_EQ(parsed.code, 0);
  EXPECT_EQ(parsed.prompt, "hello");
  ASSERT_EQ(parsed.params.logit_bias_size(), 2);
  EXPECT_EQ(parsed.params.logit_bias().at(3), -100.0f);
  EXPECT_EQ(parsed.params.logit_bias().at(17), 2.5f);
  EXPECT_EQ(parsed.params.prompt_logprobs(), 4u);
  EXPECT_TRUE(parsed.params.has_logprobs());
  EXPECT_EQ(parsed.params.best_of(), 5u);
  EXPECT_EQ(parsed.params.n(), 2u);
  EXPECT_EQ(parsed.scheduling.priority(), v1::PRIORITY_HIGH);
  EXPECT_EQ(parsed.scheduling.tenant(), "acme");
  EXPECT_EQ(parsed.scheduling.cache_salt(), "s3");
}

TEST(SamplingFlagsTest, RepeatedFlagsLeaveThePromptAlone) {
  const Parsed parsed = Parse("--stop a --stop b --stop-token-id 5 hello");
  EXPECT_EQ(parsed.prompt, "hello");
  EXPECT_EQ(parsed.params.stop_size(), 2);
  EXPECT_EQ(parsed.params.stop_token_ids_size(), 1);
}

TEST(SamplingFlagsTest, UsualSamplingLeavesWhatIsGiven) {
  v1::SamplingParams params = Parse("--temperature 0 --min-p 0").params;
  SetUsualSampling(params);
  EXPECT_EQ(params.temperature(), 0.0f);
  EXPECT_EQ(params.min_p(), 0.0f);
  EXPECT_EQ(params.top_k(), 40);
  EXPECT_EQ(params.top_p(), 0.95f);
  EXPECT_FALSE(params.has_repetition_penalty());
}

TEST(SamplingFlagsTest, RefusesWhatItCannotRead) {
  for (const char* line : {"--logit-bias 3", "--logit-bias 3=x", "--logit-bias 3=1,", "--n two",
                           "--logit-bias x=1", "--priority urgent", "--n=-1"}) {
    EXPECT_NE(Parse(line).code, 0) << line;
  }
  EXPECT_NE(Parse("--n 2 hello", /*generate=*/false).code, 0);  // a chat has one answer
}

}  // namespace
}  // namespace trireme
