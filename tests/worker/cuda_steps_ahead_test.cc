// Steps that are queued on a device before the tokens of the one before are known have the results
// of steps that wait, to the bit. Emulated streams do nothing before somebody waits for them, so
// what the host reads too early, or writes over too early, is wrong here.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/worker/gang_driver.h"
#include "tests/worker/random_plans.h"

namespace trireme {
namespace {

const std::filesystem::path kModels =
    std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden/models";

struct Way {
  std::string model = "llama3";
  ParallelLayout layout;
  int gpus = 1;
  size_t plans_ahead = 1;
};

DriverOptions OptionsOf(const Way& way) {
  DriverOptions options;
  options.model_dir = kModels / way.model;
  options.layout = way.layout;
  options.max_batched_tokens = RandomPlans::kStepTokens;
  options.kv_bytes = int64_t{1} << 20;
  options.kv_blocks_max = RandomPlans::kBlocks;
  options.make_device = [gpus = way.gpus](int rank) {
    return MakeDevice({.name = "cuda", .local_rank = rank % gpus});
  };
  return options;
}

class StepsAheadTest : public testing::TestWithParam<Way> {};

TEST_P(StepsAheadTest, HaveTheResultsOfStepsThatWait) {
  const std::vector<v1::StepPlan> plans = RandomPlans(7).Make(40);
  DriverOptions options = OptionsOf(GetParam());
  options.ahead = false;
  const auto want = RunPlans(options, plans);
  ASSERT_TRUE(want.ok()) << want.status();
  options.ahead = true;
  const auto got = RunPlans(options, plans);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->plans_ahead, GetParam().plans_ahead);
  EXPECT_EQ(ResultTexts(*got), ResultTexts(*want));
  EXPECT_TRUE(got->sequences == want->sequences);
  options.logits = false;  // nobody waits for the device in between
  const auto unseen = RunPlans(options, plans);
  ASSERT_TRUE(unseen.ok()) << unseen.status();
  EXPECT_EQ(ResultTexts(*unseen), ResultTexts(*want));
}

INSTANTIATE_TEST_SUITE_P(
    Ways, StepsAheadTest,
    testing::Values(Way{.layout = {.tp = 1, .pp = 1}}, Way{.layout = {.tp = 2, .pp = 1}, .gpus = 2},
                    Way{.model = "mixtral", .layout = {.tp = 1, .pp = 1}},
                    Way{.model = "mixtral", .layout = {.tp = 2, .pp = 1}, .gpus = 2},
                    // Through the host in each step.
                    Way{.layout = {.tp = 2, .pp = 1}, .plans_ahead = 0},
                    Way{.layout = {.tp = 1, .pp = 2}, .plans_ahead = 0}),
    [](const auto& info) {
      return info.param.model + "Tp" + std::to_string(info.param.layout.tp) + "Pp" +
             std::to_string(info.param.layout.pp) + "Gpus" + std::to_string(info.param.gpus);
    });

void AddPrompt(uint64_t id, uint32_t computed, v1::StepPlan& plan) {
  v1::NewSequence& added = *plan.add_new_sequences();
  added.set_id(id);
  for (int32_t i = 0; i < 20; ++i) added.add_token_ids(3 + 7 * i);
  added.set_prompt_tokens(20);
  added.set_computed_tokens(computed);
  *added.mutable_sampling() = GreedySampling();
  added.mutable_sampling()->set_temperature(1.5f);
  added.mutable_sampling()->set_seed(id);
}

void Schedule(uint64_t id, uint32_t tokens, const std::vector<uint32_t>& blocks,
              v1::StepPlan& plan) {
  v1::ScheduledSequence& scheduled = *plan.add_scheduled();
  scheduled.set_id(id);
  scheduled.set_num_tokens(tokens);
  scheduled.set_sample(true);
  scheduled.mutable_new_block_ids()->Assign(blocks.begin(), blocks.end());
}

// Two more continuations of a prompt begin from copies of its block, while tokens of the ones
// before are under way. Every rank samples, and alike.
TEST(StepsAhead, CopiesOfBlocksComeInTheirPlace) {
  std::vector<v1::StepPlan> plans(9);
  for (size_t i = 0; i < plans.size(); ++i) {
    v1::StepPlan& plan = plans[i];
    plan.set_epoch(1);
    plan.set_step(i + 1);
    if (i == 0) AddPrompt(1, 0, plan);
    Schedule(1, i == 0 ? 20 : 1, i == 0 ? std::vector<uint32_t>{0} : std::vector<uint32_t>{}, plan);
    if (i < 2) continue;
    if (i == 2) {
      AddPrompt(2, 19, plan);
      plan.add_copies()->set_to(3);
    }
    Schedule(2, 1, i == 2 ? std::vector<uint32_t>{3} : std::vector<uint32_t>{}, plan);
    if (i == 4) {
      AddPrompt(3, 19, plan);
      v1::BlockCopy& copy = *plan.add_copies();
      copy.set_from(3);
      copy.set_to(5);
    }
    if (i >= 4) Schedule(3, 1, i == 4 ? std::vector<uint32_t>{5} : std::vector<uint32_t>{}, plan);
  }
  DriverOptions options = OptionsOf({.layout = {.tp = 2, .pp = 1}, .gpus = 2});
  options.logits = false;
  options.ahead = false;
  const auto want = RunPlans(options, plans);
  ASSERT_TRUE(want.ok()) << want.status();
  options.ahead = true;
  for (const int rank : {0, 1}) {
    const auto got = RunPlans(options, plans, rank);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->plans_ahead, 1u);
    EXPECT_EQ(ResultTexts(*got), ResultTexts(*want)) << "rank " << rank;
  }
}

// Several seeds on one rank, with nothing that waits.
TEST(StepsAhead, ManyLoads) {
  DriverOptions options = OptionsOf({});
  options.logits = false;
  for (unsigned seed = 20; seed < 23; ++seed) {
    const std::vector<v1::StepPlan> plans = RandomPlans(seed).Make(30);
    options.ahead = false;
    const auto want = RunPlans(options, plans);
    ASSERT_TRUE(want.ok()) << want.status();
    options.ahead = true;
    const auto got = RunPlans(options, plans);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(ResultTexts(*got), ResultTexts(*want)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace trireme
