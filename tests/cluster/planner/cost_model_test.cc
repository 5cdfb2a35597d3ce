#include "cluster/planner/cost_model.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

// Round numbers: 1e12 bytes/s and 1e14 products' operations/s, all of them reached.
DeviceSpec Device() {
  DeviceSpec device;
  device.memory_bytes_per_s = 1e12;
  device.flops_16bit = 1e14;
  device.flops_8bit = 2e14;
  return device;
}

const LinkSpec kLink = {.name = "link", .alpha_s = 1e-6, .bytes_per_s = 1e9};

TEST(AllReduceTest, SmallMessagesDoubleAndLargeOnesGoRound) {
  // Recursive doubling: 3 steps of 1 us + 1 us. A ring: 14 steps of 1 us + 0.125 us.
  EXPECT_NEAR(AllReduceSeconds(kLink, 8, 1e3), 6e-6, 1e-12);
  // A ring: 14 steps of 1 us + 1/8 s. Doubling would be 3 s.
  EXPECT_NEAR(AllReduceSeconds(kLink, 8, 1e9), 1.750014, 1e-9);
  EXPECT_EQ(AllReduceSeconds(kLink, 1, 1e9), 0);
}

TEST(AllGatherTest, EachRankGetsTheOthersParts) {
  EXPECT_NEAR(AllGatherSeconds(kLink, 4, 4e6), 3 * (1e-6 + 1e-3), 1e-12);
  EXPECT_EQ(AllGatherSeconds(kLink, 1, 4e6), 0);
}

TEST(SendTest, IsAlphaAndBeta) { EXPECT_NEAR(SendSeconds(kLink, 2e9), 2.000001, 1e-12); }

TEST(StageTest, OneTokenReadsAndManyMultiply) {
  StageWork work;
  work.dense = {{.bytes = 2e9, .elements = 1e9}};
  // 2 GB at 1e12: 2 ms. 2e9 operations would be 20 us.
  EXPECT_NEAR(StageSeconds(work, {.sampled = 0}, Device(), kLink), 2e-3, 1e-12);
  // 1000 tokens: 2e12 operations at 1e14: 20 ms.
  EXPECT_NEAR(StageSeconds(work, {.tokens = 1000, .context = 1000, .sampled = 0}, Device(), kLink),
              20e-3, 1e-12);
}

TEST(StageTest, PartOfTheReadingMayNotBeHiddenBehindProducts) {
  StageWork work;
  work.dense = {{.bytes = 2e9, .elements = 1e9}};
  DeviceSpec device = Device();
  device.reading_exposed = 0.5;
  // 2 ms of reading; 20 us of products are hidden, 20 ms hide half of it.
  EXPECT_NEAR(StageSeconds(work, {.sampled = 0}, device, kLink), 2e-3, 1e-12);
  EXPECT_NEAR(StageSeconds(work, {.tokens = 1000, .context = 1000, .sampled = 0}, device, kLink),
              21e-3, 1e-12);
}

TEST(StageTest, ProductsOf8BitsHaveARateOfTheirOwn) {
  StageWork work;
  work.dense = {{.bytes = 1e9, .elements = 1e9}};
  const StepTokens step = {.tokens = 1000, .context = 1000, .sampled = 0};
  EXPECT_NEAR(StageSeconds(work, step, Device(), kLink), 20e-3, 1e-12);
  work.dense[0].rate_8bit = true;
  EXPECT_NEAR(StageSeconds(work, step, Device(), kLink), 10e-3, 1e-12);
}

TEST(StageTest, AttentionReadsTheContextOrTheWindow) {
  StageWork work;
  work.kv_bytes_per_token = 1e6;
  work.windows = {0, 100};
  // Two sequences: 1000 tokens of one layer, 100 of the other: 2.2 GB.
  EXPECT_NEAR(StageSeconds(work, {.sequences = 2, .context = 1000, .sampled = 0}, Device(), kLink),
              2.2e-3, 1e-12);
  work.cross_layers = 1;
  work.image_tokens = 50;
  EXPECT_NEAR(StageSeconds(work, {.sequences = 2, .context = 1000, .sampled = 0}, Device(), kLink),
              2.3e-3, 1e-12);
}

TEST(StageTest, APromptsQueriesSeeHalfOfIt) {
  StageWork work;
  work.attention_elements = 1e6;
  work.windows = {0};
  // 1001 queries that see 501 keys in the mean, 2 x 1e6 operations each, at 1e14.
  EXPECT_NEAR(StageSeconds(work, {.tokens = 1001, .context = 1001, .sampled = 0}, Device(), kLink),
              1001 * 501 * 2e6 / 1e14, 1e-9);
}

TEST(StageTest, ExpertsThatNoTokenChoseAreNotRead) {
  StageWork work;
  work.experts = {{.bytes = 8e9, .elements = 4e9}};
  work.num_experts = 8;
  work.experts_per_token = 2;
  // One token: 2 of 8, so 2 GB.
  EXPECT_NEAR(StageSeconds(work, {.sampled = 0}, Device(), kLink), 2e-3, 1e-12);
  // Two tokens: 1 - (6/8)^2 = 7/16 of 8 GB.
  EXPECT_NEAR(StageSeconds(work, {.sequences = 2, .sampled = 0}, Device(), kLink), 3.5e-3, 1e-12);
}

TEST(StageTest, TheHeadIsForSampledTokens) {
  StageWork work;
  work.head = {{.bytes = 1e9, .elements = 5e8}};
  EXPECT_EQ(StageSeconds(work, {.tokens = 10, .context = 10, .sampled = 0}, Device(), kLink), 0);
  EXPECT_NEAR(StageSeconds(work, {.tokens = 10, .context = 10, .sampled = 1}, Device(), kLink),
              1e-3, 1e-12);
}

TEST(StageTest, RanksOfALayerTalk) {
  StageWork work;
  work.tp = 2;
  work.hidden_size = 1000;
  work.all_reduces = 3;
  work.logits = 1000;
  // 4000 bytes by doubling: 1 us + 4 us, three times; half of 4000 bytes gathered: 1 us + 2 us.
  EXPECT_NEAR(StageSeconds(work, StepTokens{}, Device(), kLink), 18e-6, 1e-12);
}

TEST(StageTest, DecodesAndPromptsOfAStepReadTheWeightsOnce) {
  StageWork work;
  work.dense = {{.bytes = 2e9, .elements = 1e6}};
  work.kv_bytes_per_token = 1e6;
  work.windows = {0, 0};
  const std::vector<StepTokens> parts = {{.sequences = 2, .context = 1000, .sampled = 0},
                                         {.tokens = 500, .context = 500, .sampled = 0}};
  // 2 GB of weights; keys of 2 x 1000 and of 500 tokens in two layers: 5 GB.
  EXPECT_NEAR(StageSeconds(work, parts, Device(), kLink), 7e-3, 1e-12);
}

}  // namespace
}  // namespace trireme
