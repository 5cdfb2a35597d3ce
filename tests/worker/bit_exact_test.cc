// The signature of the CPU backend: the same request gives the same bits of every logit and the
// same tokens, for every legal layout, every chunking of its prefill, any batch around it, any
// thread count.

#include <gtest/gtest.h>

#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

const std::filesystem::path kRoot = TRIREME_SOURCE_DIR;

std::vector<int32_t> Prompt(int64_t length, int32_t seed, int32_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < length; ++i) {
    ids.push_back(static_cast<int32_t>((i * 31 + seed * 17 + i * i * 7) % vocab));
  }
  return ids;
}

TestRequest Request(int64_t length, int32_t seed, int64_t steps, int64_t start_after = 0) {
  return {.prompt = Prompt(length, seed, 150),
          .steps = steps,
          .start_after = start_after,
          .sampling = GreedySampling()};
}

TestOutput Single(const DriverOptions& options, const TestRequest& request, int rank = -1) {
  auto outputs = DriveGang(options, {request}, rank);
  EXPECT_TRUE(outputs.ok()) << outputs.status();
  return outputs.ok() ? outputs->front() : TestOutput{};
}

class BitExactTest : public testing::TestWithParam<std::string> {
 protected:
  std::filesystem::path model() const { return kRoot / GetParam(); }
};

TEST_P(BitExactTest, EveryLegalLayoutUpToEightRanks) {
  const ModelConfig config = *ModelConfig::Load(model());
  const TestRequest request = Request(70, 3, 6);
  const TestOutput want = Single({.model_dir = model(), .layout = {}}, request);
  ASSERT_EQ(want.tokens.size(), 6u);
  ASSERT_EQ(want.logits.size(), 6u);
  int layouts = 0;
  for (int world = 2; world <= 8; ++world) {
    for (const ParallelLayout& layout : LegalLayouts(config, world)) {
      ++layouts;
      const DriverOptions options{
          .model_dir = model(), .layout = layout, .threads = 1, .chunk = 64};
      EXPECT_TRUE(Single(options, request) == want) << "tp " << layout.tp << " pp " << layout.pp;
    }
  }
  EXPECT_GE(layouts, 4);
}

TEST_P(BitExactTest, EverySplitOfTheLayers) {
  const int64_t layers = ModelConfig::Load(model())->num_layers;
  const TestRequest request = Request(40, 4, 4);
  const TestOutput want = Single({.model_dir = model(), .layout = {}}, request);
  ASSERT_EQ(want.logits.size(), 4u);
  for (int64_t first = 1; first < layers; ++first) {
    for (const int tp : {1, 2}) {
      const ParallelLayout layout{.tp = tp, .pp = 2, .stage_layers = {first, layers - first}};
      const DriverOptions options{
          .model_dir = model(), .layout = layout, .threads = 1, .chunk = 16};
      EXPECT_TRUE(Single(options, request) == want) << "tp " << tp << ", first stage " << first;
    }
  }
}

TEST_P(BitExactTest, RanksOfTheLastStageSeeTheSameLogits) {
  const TestRequest request = Request(20, 5, 4);
  const DriverOptions options{.model_dir = model(), .layout = {.tp = 2, .pp = 2}};
  EXPECT_TRUE(Single(options, request, 3).SameLogits(Single(options, request, 2)));
  for (const int rank : {0, 1, 3}) EXPECT_TRUE(Single(options, request, rank).tokens.empty());
}

TEST_P(BitExactTest, EveryChunkingOfThePrefill) {
  const TestRequest request = Request(131, 1, 4);
  const TestOutput want = Single({.model_dir = model(), .layout = {}}, request);
  for (const int64_t chunk : {1, 7, 64}) {
    const DriverOptions options{
        .model_dir = model(), .layout = {.tp = 2, .pp = 1}, .threads = 1, .chunk = chunk};
    EXPECT_TRUE(Single(options, request) == want) << "chunks of " << chunk;
  }
}

TEST_P(BitExactTest, AloneOrAmongOthers) {
  const std::vector<TestRequest> requests = {Request(33, 1, 9), Request(5, 2, 12, 2),
                                             Request(90, 3, 5, 3), Request(1, 4, 16, 1)};
  const DriverOptions options{
      .model_dir = model(), .layout = {.tp = 1, .pp = 2}, .threads = 2, .chunk = 16};
  const auto together = DriveGang(options, requests);
  ASSERT_TRUE(together.ok()) << together.status();
  for (size_t i = 0; i < requests.size(); ++i) {
    TestRequest alone = requests[i];
    alone.start_after = 0;
    EXPECT_TRUE(Single({.model_dir = model(), .layout = {}}, alone) == (*together)[i])
        << "request " << i;
  }
}

TEST_P(BitExactTest, EveryThreadCount) {
  const TestRequest request = Request(50, 9, 4);
  const TestOutput want = Single({.model_dir = model(), .layout = {}}, request);
  for (const int threads : {2, 3, 8}) {
    EXPECT_TRUE(Single({.model_dir = model(), .layout = {}, .threads = threads}, request) == want)
        << threads;
  }
}

// The first step packs for itself, the second to stay, the third finds it there; experts at times
// of their own.
TEST_P(BitExactTest, WeightsPackedWhenTheyAreUsed) {
  const TestRequest request = Request(50, 7, 5);
  const TestOutput want = Single({.model_dir = model(), .layout = {}}, request);
  ASSERT_EQ(want.logits.size(), 5u);
  for (const ParallelLayout& layout : {ParallelLayout{}, ParallelLayout{.tp = 2, .pp = 2}}) {
    const DriverOptions options{
        .model_dir = model(), .layout = layout, .threads = 2, .chunk = 64, .mapped = true};
    EXPECT_TRUE(Single(options, request) == want) << "tp " << layout.tp << " pp " << layout.pp;
  }
}

TEST_P(BitExactTest, SampledTokensDoNotDependOnLayoutOrBatch) {
  TestRequest request = Request(12, 6, 12);
  request.sampling.set_temperature(0.9f);
  request.sampling.set_top_p(0.95f);
  request.sampling.set_top_k(40);
  request.sampling.set_repetition_penalty(1.1f);
  request.sampling.set_seed(42);
  const TestOutput want = Single({.model_dir = model(), .layout = {}}, request);
  const auto among =
      DriveGang({.model_dir = model(), .layout = {.tp = 2, .pp = 2}}, {Request(7, 1, 5), request});
  ASSERT_TRUE(among.ok());
  EXPECT_TRUE((*among)[1] == want);
}

INSTANTIATE_TEST_SUITE_P(
    Models, BitExactTest,
    testing::Values("models/pilot", "tests/golden/models/llama2", "tests/golden/models/llama_bias",
                    "tests/golden/models/mistral_window", "tests/golden/models/qwen2",
                    "tests/golden/models/qwen3", "tests/golden/models/gemma3",
                    "tests/golden/models/mixtral", "tests/golden/quantized/int8",
                    "tests/golden/quantized/fp8", "tests/golden/quantized/awq",
                    "tests/golden/quantized/gptq", "tests/golden/quantized/gptq_act_order"),
    [](const auto& info) { return std::filesystem::path(info.param).filename().string(); });

}  // namespace
}  // namespace trireme
