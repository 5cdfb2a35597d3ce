// Steps that are queued on a device before the tokens of the one before are known have the results
// of steps that wait, to the bit. Emulated streams do nothing before somebody waits for them, so
// what the host reads too early, or writes over too early, is wrong here.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>

#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

const std::filesystem::path kModel =
    std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden/models/llama3";
constexpr int64_t kBlockSize = 32;
constexpr uint32_t kBlocks = 16;
constexpr int64_t kStepTokens = 32;

v1::StepSampling RandomSampling(std::mt19937& random) {
  v1::StepSampling sampling = GreedySampling();
  if (random() % 3 > 0) {
    sampling.set_temperature(1.2f);
    sampling.set_seed(random());
  }
  if (random() % 3 == 0) sampling.set_top_k(20);
  if (random() % 3 == 0) sampling.set_top_p(0.9f);
  if (random() % 3 == 0) sampling.set_logprobs(random() % 4);
  if (random() % 6 == 0) sampling.set_prompt_logprobs(1);
  if (random() % 4 == 0) sampling.set_repetition_penalty(1.5f);
  if (random() % 6 == 0) sampling.set_frequency_penalty(0.5f);
  return sampling;
}

// What a scheduler might plan without waiting for a result: sequences come, are computed in chunks
// beside others, are left out of steps, end early, and leave their blocks and ids to others.
class RandomPlans {
 public:
  explicit RandomPlans(unsigned seed) : random_(seed) {
    for (uint32_t block = 0; block < kBlocks; ++block) free_.push_back(block);
  }

  std::vector<v1::StepPlan> Make(size_t count) {
    std::vector<v1::StepPlan> plans;
    while (plans.size() < count) {
      v1::StepPlan& plan = plans.emplace_back();
      plan.set_epoch(1);
      plan.set_step(plans.size());
      EndSome(plan);
      if (running_.size() < 5 && random_() % 2 == 0) Begin(plan);
      int64_t room = kStepTokens;
      for (auto& [id, sequence] : running_) {
        if (room > 0 && random_() % 8 > 0) Schedule(id, sequence, room, plan);
      }
    }
    return plans;
  }

 private:
  struct Running {
    int64_t known = 0;
    int64_t computed = 0;
    int64_t length = 0;  // at which it ends
    std::vector<uint32_t> blocks;
  };

  void EndSome(v1::StepPlan& plan) {
    for (auto it = running_.begin(); it != running_.end();) {
      if (it->second.known < it->second.length && random_() % 24 > 0) {
        ++it;
        continue;
      }
      plan.add_finished_ids(it->first);
      free_.insert(free_.end(), it->second.blocks.begin(), it->second.blocks.end());
      it = running_.erase(it);
    }
  }

  void Begin(v1::StepPlan& plan) {
    const uint64_t id = random_() % 8;
    if (running_.contains(id)) return;
    Running& sequence = running_[id];
    sequence.known = 1 + static_cast<int64_t>(random_() % 40);
    sequence.length = sequence.known + 1 + static_cast<int64_t>(random_() % 12);
    v1::NewSequence& added = *plan.add_new_sequences();
    added.set_id(id);
    for (int64_t i = 0; i < sequence.known; ++i) {
      added.add_token_ids(static_cast<int32_t>(random_() % 150));
    }
    added.set_prompt_tokens(static_cast<uint32_t>(sequence.known));
    *added.mutable_sampling() = RandomSampling(random_);
  }

  void Schedule(uint64_t id, Running& sequence, int64_t& room, v1::StepPlan& plan) {
    const int64_t count = std::min({sequence.known - sequence.computed, room, int64_t{16}});
    room -= count;
    sequence.computed += count;
    v1::ScheduledSequence& scheduled = *plan.add_scheduled();
    scheduled.set_id(id);
    scheduled.set_num_tokens(static_cast<uint32_t>(count));
    scheduled.set_sample(sequence.computed == sequence.known);
    if (scheduled.sample()) ++sequence.known;
    while (static_cast<int64_t>(sequence.blocks.size()) * kBlockSize < sequence.computed) {
      sequence.blocks.push_back(free_.back());  // 5 sequences of 52 tokens have room
      free_.pop_back();
      scheduled.add_new_block_ids(sequence.blocks.back());
    }
  }

  std::mt19937 random_;
  std::map<uint64_t, Running> running_;
  std::vector<uint32_t> free_;
};

struct Way {
  ParallelLayout layout;
  int gpus = 1;
  size_t plans_ahead = 1;
};

DriverOptions OptionsOf(const Way& way) {
  DriverOptions options;
  options.model_dir = kModel;
  options.layout = way.layout;
  options.max_batched_tokens = kStepTokens;
  options.kv_bytes = int64_t{1} << 20;
  options.kv_blocks_max = kBlocks;
  options.make_device = [gpus = way.gpus](int rank) {
    return MakeDevice({.name = "cuda", .local_rank = rank % gpus});
  };
  return options;
}

// All but the times.
std::vector<std::string> Text(const GangOutput& output) {
  std::vector<std::string> results;
  for (v1::StepResult result : output.results) {
    result.clear_step_ms();
    result.clear_bubble_ms();
    results.push_back(result.ShortDebugString());
  }
  return results;
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
  EXPECT_EQ(Text(*got), Text(*want));
  EXPECT_TRUE(got->sequences == want->sequences);
  options.logits = false;  // nobody waits for the device in between
  const auto unseen = RunPlans(options, plans);
  ASSERT_TRUE(unseen.ok()) << unseen.status();
  EXPECT_EQ(Text(*unseen), Text(*want));
}

INSTANTIATE_TEST_SUITE_P(Ways, StepsAheadTest,
                         testing::Values(Way{.layout = {.tp = 1, .pp = 1}},
                                         Way{.layout = {.tp = 2, .pp = 1}, .gpus = 2},
                                         // Through the host in each step.
                                         Way{.layout = {.tp = 2, .pp = 1}, .plans_ahead = 0},
                                         Way{.layout = {.tp = 1, .pp = 2}, .plans_ahead = 0}),
                         [](const auto& info) {
                           return "Tp" + std::to_string(info.param.layout.tp) + "Pp" +
                                  std::to_string(info.param.layout.pp) + "Gpus" +
                                  std::to_string(info.param.gpus);
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
    EXPECT_EQ(Text(*got), Text(*want)) << "rank " << rank;
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
    EXPECT_EQ(Text(*got), Text(*want)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace trireme
