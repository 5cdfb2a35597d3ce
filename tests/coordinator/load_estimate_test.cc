#include "coordinator/load_estimate.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

// A gang whose steps take 10 ms and 0.5 ms more for each token.
LoadEstimate Linear() {
  LoadEstimate load;
  for (int i = 0; i < 200; ++i) {
    const uint32_t tokens = 1 + static_cast<uint32_t>(i) * 37 % 256;
    load.AddStep(tokens, 10 + 0.5 * tokens);
  }
  return load;
}

TEST(LoadEstimateTest, KnowsNothingAtFirst) {
  const LoadEstimate load;
  EXPECT_FALSE(load.known());
  EXPECT_EQ(load.StepMs(100), 0);
  EXPECT_FALSE(load.TokensWithin(100).has_value());
  EXPECT_EQ(load.FirstTokenMs({.tokens_ahead = 1000}), 0);
}

TEST(LoadEstimateTest, FitsALine) {
  const LoadEstimate load = Linear();
  EXPECT_NEAR(load.StepMs(0), 10, 0.01);
  EXPECT_NEAR(load.StepMs(200), 110, 0.01);
  ASSERT_TRUE(load.TokensWithin(60).has_value());
  EXPECT_NEAR(*load.TokensWithin(60), 100, 1);
  EXPECT_EQ(load.TokensWithin(1), 1u);  // no step is that short
}

TEST(LoadEstimateTest, StepsOfOneSizeAreInProportion) {
  LoadEstimate load;
  for (int i = 0; i < 20; ++i) load.AddStep(8, 16);
  EXPECT_NEAR(load.StepMs(8), 16, 1e-6);
  EXPECT_NEAR(load.StepMs(16), 32, 1e-6);
}

TEST(LoadEstimateTest, ForgetsHowItWas) {
  LoadEstimate load = Linear();
  for (int i = 0; i < 1000; ++i) load.AddStep(1 + static_cast<uint32_t>(i) * 37 % 256, 30);
  EXPECT_NEAR(load.StepMs(100), 30, 0.1);
}

TEST(LoadEstimateTest, FirstTokenWaitsForThePromptsAhead) {
  const LoadEstimate load = Linear();
  const LoadEstimate::Queue idle{.tokens_ahead = 100, .running_max = 8, .tokens_per_step = 512};
  LoadEstimate::Queue busy = idle;
  busy.tokens_ahead = 100'000;
  EXPECT_LT(load.FirstTokenMs(idle), 200);
  EXPECT_GT(load.FirstTokenMs(busy), 100'000 / 512 * load.StepMs(512));
}

TEST(LoadEstimateTest, FirstTokenWaitsForAPlace) {
  LoadEstimate load = Linear();
  for (int i = 0; i < 100; ++i) load.AddFinished(50, 1000.0 * i, /*others_wait=*/true);
  const LoadEstimate::Queue full{.tokens_ahead = 10,
                                 .sequences_ahead = 4,
                                 .running = 8,
                                 .running_max = 8,
                                 .tokens_per_step = 512};
  EXPECT_NEAR(load.FirstTokenMs(full), 5000, 1);
  // Steps go on as of late, prompts of others included; the older the step, the less it counts.
  double weight = 0;
  double sum_ms = 0;
  for (int i = 0; i < 200; ++i) {
    weight = 0.97 * weight + 1;
    sum_ms = 0.97 * sum_ms + 10 + 0.5 * (1 + i * 37 % 256);
  }
  const double mean_ms = sum_ms / weight;
  EXPECT_GT(mean_ms, load.StepMs(8));
  EXPECT_NEAR(load.TotalMs(full, 1000) - load.FirstTokenMs(full), 49 * mean_ms, 1);
  EXPECT_NEAR(load.TotalMs(full, 10) - load.FirstTokenMs(full), 9 * mean_ms, 1);
  // With a place free and nobody waiting, steps only decode.
  const LoadEstimate::Queue free{
      .tokens_ahead = 10, .running = 7, .running_max = 8, .tokens_per_step = 512};
  EXPECT_NEAR(load.TotalMs(free, 1000) - load.FirstTokenMs(free), 49 * load.StepMs(8), 1);
}

TEST(LoadEstimateTest, IdleTimeIsNoGap) {
  LoadEstimate load = Linear();
  load.AddFinished(50, 0, /*others_wait=*/true);
  load.AddFinished(50, 100, /*others_wait=*/false);
  load.AddFinished(50, 1e6, /*others_wait=*/true);
  load.AddFinished(50, 1e6 + 100, /*others_wait=*/true);
  const LoadEstimate::Queue full{.running = 8, .running_max = 8, .tokens_per_step = 512};
  EXPECT_LT(load.FirstTokenMs(full), 200);
}

}  // namespace
}  // namespace trireme
