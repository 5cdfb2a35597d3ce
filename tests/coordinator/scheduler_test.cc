// The scheduler's policy, case by case. That it holds in every order of events is checked by
// tests/simulation, whose gang and oracle also check every step here.

#include "coordinator/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <string>

#include "tests/simulation/oracle.h"
#include "tests/simulation/simulated_gang.h"

namespace trireme {
namespace {

using simulation::Oracle;
using simulation::SimulatedGang;

constexpr uint32_t kVocab = 1000;

std::vector<int32_t> Text(uint32_t tokens, int32_t first = 0) {
  std::vector<int32_t> text(tokens);
  std::iota(text.begin(), text.end(), first);
  return text;
}

// A scheduler, its gang and its clients.
class World {
 public:
  explicit World(const GangCapacity& capacity, SchedulerOptions options = {})
      : options_(Filled(std::move(options))), oracle_(kVocab), scheduler(options_) {
    Start(capacity);
  }

  void Start(GangCapacity capacity) {
    capacity.epoch = ++epoch_;
    capacity.max_num_batched_tokens = 8192;
    if (capacity.max_model_len == 0) capacity.max_model_len = 4096;
    gang_ = std::make_unique<SimulatedGang>(capacity, options_,
                                            [this](uint64_t id) { return oracle_.SpaceOf(id); });
    scheduler.GangReady(capacity);
  }

  // Returns who was given up.
  std::vector<uint64_t> Lose(bool silent = false) {
    results_.clear();
    std::vector<uint64_t> given_up = scheduler.GangLost(silent);
    for (const uint64_t id : given_up) oracle_.End(id);
    return given_up;
  }

  // Returns the id of the first of n.
  uint64_t Add(const Sequence& request, uint32_t n = 1, uint64_t space = 0) {
    std::vector<Sequence> siblings(n, request);
    for (Sequence& sibling : siblings) {
      sibling.id = ++last_id_;
      sibling.sampling.set_seed(last_id_);
      sibling.cache_root = HashNamespace(options_.hash_key, std::to_string(space));
      oracle_.Add(sibling, space);
    }
    const uint64_t first = siblings.front().id;
    scheduler.Add(std::move(siblings));
    return first;
  }

  std::optional<v1::StepPlan> Plan() {
    std::optional<v1::StepPlan> plan = scheduler.Plan();
    if (!plan.has_value()) return plan;
    absl::StatusOr<v1::StepResult> result = gang_->Step(*plan);
    EXPECT_TRUE(result.ok()) << std::string(result.status().message());
    results_.push_back(*std::move(result));
    return plan;
  }

  void Apply() {
    const absl::StatusOr<StepOutput> output = scheduler.Apply(std::move(results_.front()));
    results_.pop_front();
    ASSERT_TRUE(output.ok()) << std::string(output.status().message());
    for (const SequenceOutput& token : output->tokens) {
      ++heard[token.token.sequence_id()];
      reasons[token.token.sequence_id()] = token.finish_reason;
    }
    const absl::Status status = oracle_.Hear(*output);
    EXPECT_TRUE(status.ok()) << std::string(status.message());
    EXPECT_TRUE(scheduler.CheckIntegrity().ok());
  }

  // A plan and its result.
  v1::StepPlan Step() {
    const std::optional<v1::StepPlan> plan = Plan();
    EXPECT_TRUE(plan.has_value());
    if (!plan.has_value()) return {};
    Apply();
    return *plan;
  }

  void Drain() {
    while (scheduler.num_sequences() > 0 && !testing::Test::HasFailure()) Step();
  }

 private:
  static SchedulerOptions Filled(SchedulerOptions options) {
    options.vocab_size = kVocab;
    return options;
  }

  const SchedulerOptions options_;
  Oracle oracle_;
  std::unique_ptr<SimulatedGang> gang_;
  std::deque<v1::StepResult> results_;
  uint64_t epoch_ = 0;
  uint64_t last_id_ = 0;

 public:
  Scheduler scheduler;
  std::map<uint64_t, uint32_t> heard;  // tokens, by sequence
  std::map<uint64_t, v1::FinishReason> reasons;
};

Sequence Request(std::vector<int32_t> prompt, uint32_t max_tokens,
                 v1::Priority priority = v1::PRIORITY_NORMAL, const std::string& tenant = "a") {
  Sequence sequence;
  sequence.tokens = std::move(prompt);
  sequence.max_tokens = max_tokens;
  sequence.priority = priority;
  sequence.tenant_name = tenant;
  return sequence;
}

GangCapacity Pool(uint32_t blocks, uint32_t block_size = 16, uint32_t swap = 0) {
  return {.kv_block_size = block_size, .kv_blocks = blocks, .swap_blocks = swap};
}

uint32_t Tokens(const v1::StepPlan& plan) {
  uint32_t tokens = 0;
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) tokens += scheduled.num_tokens();
  return tokens;
}

// How the plan announces a sequence; null if it does not.
const v1::NewSequence* Announced(const v1::StepPlan& plan, uint64_t id) {
  for (const v1::NewSequence& added : plan.new_sequences()) {
    if (added.id() == id) return &added;
  }
  return nullptr;
}

bool Told(const v1::StepPlan& plan, uint64_t finished) {
  return std::count(plan.finished_ids().begin(), plan.finished_ids().end(), finished) == 1;
}

TEST(SchedulerTest, SharedSystemPromptIsComputedOnce) {
  // In one step, or in chunks: blocks can be shared from the moment that they are planned.
  for (const uint32_t budget : {4096u, 512u}) {
    World world(Pool(256), {.max_num_batched_tokens = budget});
    for (int32_t i = 0; i < 8; ++i) {
      std::vector<int32_t> prompt = Text(1024);
      for (int32_t token = 0; token < 10; ++token) prompt.push_back(token * (i + 2));
      world.Add(Request(prompt, 1));
    }
    uint32_t computed = 0;
    while (world.scheduler.num_sequences() > 0) computed += Tokens(world.Step());
    EXPECT_EQ(computed, 1024 + 8 * 10);
  }
}

TEST(SchedulerTest, OtherNamespacesShareNothing) {
  World world(Pool(256));
  world.Add(Request(Text(64), 1), 1, /*space=*/1);
  world.Add(Request(Text(64), 1), 1, /*space=*/2);
  EXPECT_EQ(Tokens(world.Step()), 128u);
  EXPECT_EQ(world.scheduler.stats().prefix_tokens_hit, 0u);
}

TEST(SchedulerTest, SiblingsComputeThePromptOnceAndCopyItsLastBlock) {
  World world(Pool(256));
  const uint64_t leader = world.Add(Request(Text(40), 4), 4);
  const v1::StepPlan first = world.Step();
  EXPECT_EQ(Tokens(first), 40u);
  const uint32_t last_block = first.scheduled(0).new_block_ids(2);
  const v1::StepPlan second = world.Step();
  EXPECT_EQ(Tokens(second), 1u + 3u);  // the leader decodes, the others compute the last token
  ASSERT_EQ(second.copies_size(), 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(second.copies(i).from(), last_block);
    const v1::NewSequence* follower = Announced(second, leader + 1 + static_cast<uint64_t>(i));
    ASSERT_NE(follower, nullptr);
    EXPECT_EQ(follower->computed_tokens(), 39u);
    EXPECT_EQ(second.scheduled(1 + i).new_block_ids(0), first.scheduled(0).new_block_ids(0));
  }
  world.Drain();
}

TEST(SchedulerTest, CancelledLeaderLeavesThePromptToTheNext) {
  World world(Pool(256));
  const uint64_t leader = world.Add(Request(Text(40), 4), 3);
  world.scheduler.Cancel(leader);
  const v1::StepPlan plan = world.Step();
  EXPECT_NE(Announced(plan, leader + 1), nullptr);
  EXPECT_NE(Announced(plan, leader + 2), nullptr);
  world.Drain();
}

TEST(SchedulerTest, PreemptedSequenceResumesWithItsCachedBlocks) {
  World world(Pool(9, 4));
  world.Add(Request(Text(15), 3));
  const uint64_t younger = world.Add(Request(Text(16, 100), 12));
  while (world.scheduler.stats().preemptions == 0) world.Step();
  EXPECT_GT(world.heard[younger], 0u);
  const v1::NewSequence* again = nullptr;
  v1::StepPlan plan;
  while ((again = Announced(plan, younger)) == nullptr && !HasFailure()) plan = world.Step();
  EXPECT_GE(again->computed_tokens(), 12u);
  EXPECT_EQ(again->prompt_tokens(), 16u);
  EXPECT_EQ(static_cast<uint32_t>(again->token_ids_size()), 16 + world.heard[younger] - 1);
  world.Drain();
  EXPECT_EQ(world.heard[younger], 12u);
}

TEST(SchedulerTest, SwappedSequenceComputesNothingAgain) {
  World world(Pool(9, 4, /*swap=*/16), {.prefix_caching = false});
  world.Add(Request(Text(15), 3));
  const uint64_t younger = world.Add(Request(Text(16, 100), 12));
  while (world.scheduler.stats().swaps == 0) world.Step();
  const v1::NewSequence* again = nullptr;
  v1::StepPlan plan;
  while ((again = Announced(plan, younger)) == nullptr && !HasFailure()) plan = world.Step();
  EXPECT_EQ(again->computed_tokens() + 1, static_cast<uint32_t>(again->token_ids_size()));
  world.Drain();
  EXPECT_EQ(world.scheduler.swap().num_free(), 16u);
}

TEST(SchedulerTest, PromptMayFillTheContextButForOneToken) {
  GangCapacity capacity = Pool(8, 16);
  capacity.max_model_len = 128;
  World world(capacity);
  const uint64_t id = world.Add(Request(Text(127), 1));
  EXPECT_EQ(Tokens(world.Step()), 127u);
  EXPECT_EQ(world.reasons[id], v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(world.scheduler.num_sequences(), 0u);
  EXPECT_EQ(world.scheduler.blocks().num_free(), 8u);
}

TEST(SchedulerTest, ChunksOfAPromptDoNotDelayDecodes) {
  World world(Pool(256));
  const uint64_t reader = world.Add(Request(Text(10), 100));
  world.Step();
  world.scheduler.SetMixedStepTokens(32);
  const uint64_t longer = world.Add(Request(Text(1000, 100), 4));
  for (uint32_t step = 2; world.heard[longer] == 0 && !HasFailure(); ++step) {
    const v1::StepPlan plan = world.Step();
    EXPECT_EQ(plan.scheduled(0).id(), reader);  // first, and in every step
    EXPECT_EQ(world.heard[reader], step);
    EXPECT_LE(Tokens(plan), 32u);
  }
  EXPECT_EQ(world.heard[reader], 1 + (1000 + 30) / 31);
}

TEST(SchedulerTest, PromptsAloneUseTheWholeBudget) {
  World world(Pool(256));
  world.scheduler.SetMixedStepTokens(32);
  world.Add(Request(Text(1000), 4));
  EXPECT_EQ(Tokens(world.Step()), 512u);
}

TEST(SchedulerTest, HighPreemptsBatch) {
  World world(Pool(8, 16));
  const uint64_t normal = world.Add(Request(Text(30), 20));
  const uint64_t batch = world.Add(Request(Text(60, 100), 20, v1::PRIORITY_BATCH));
  world.Step();
  const uint64_t high = world.Add(Request(Text(60, 200), 4, v1::PRIORITY_HIGH));
  const v1::StepPlan plan = world.Step();
  EXPECT_NE(Announced(plan, high), nullptr);
  EXPECT_TRUE(Told(plan, batch));
  EXPECT_FALSE(Told(plan, normal));
  world.Drain();
  EXPECT_EQ(world.heard[batch], 20u);
}

TEST(SchedulerTest, EqualsWaitForEachOther) {
  World world(Pool(8, 16));
  world.Add(Request(Text(100), 20));
  world.Step();
  world.Add(Request(Text(60, 200), 4));
  EXPECT_EQ(world.Step().new_sequences_size(), 0);
  EXPECT_EQ(world.scheduler.stats().preemptions, 0u);
  world.Drain();
}

TEST(SchedulerTest, PausedGivesWay) {
  World world(Pool(8, 16));
  const uint64_t paused = world.Add(Request(Text(100), 20, v1::PRIORITY_HIGH));
  world.Step();
  world.scheduler.Pause(paused);
  EXPECT_FALSE(world.Plan().has_value());
  const uint64_t batch = world.Add(Request(Text(60, 200), 4, v1::PRIORITY_BATCH));
  const v1::StepPlan plan = world.Step();
  EXPECT_NE(Announced(plan, batch), nullptr);
  EXPECT_TRUE(Told(plan, paused));
  world.scheduler.Resume(paused);
  world.Drain();
  EXPECT_EQ(world.heard[paused], 20u);
}

TEST(SchedulerTest, PlansComeAheadOfResults) {
  World world(Pool(64));
  const uint64_t id = world.Add(Request(Text(10), 5));
  ASSERT_TRUE(world.Plan().has_value());
  const std::optional<v1::StepPlan> ahead = world.Plan();
  ASSERT_TRUE(ahead.has_value());  // computes a token that is not known here yet
  EXPECT_EQ(ahead->scheduled(0).num_tokens(), 1u);
  EXPECT_TRUE(ahead->scheduled(0).sample());
  EXPECT_FALSE(world.Plan().has_value());
  EXPECT_EQ(world.scheduler.plans_in_flight(), 2u);
  world.Apply();
  EXPECT_TRUE(world.Plan().has_value());
  while (world.scheduler.plans_in_flight() > 0) world.Apply();
  world.Drain();
  EXPECT_EQ(world.heard[id], 5u);
}

TEST(SchedulerTest, PipelineStagesWorkOnDifferentSequences) {
  GangCapacity capacity = Pool(256);
  capacity.pipeline_stages = 2;
  World world(capacity);
  for (int32_t i = 0; i < 8; ++i) world.Add(Request(Text(10, 100 * i), 50));
  world.Step();
  const std::optional<v1::StepPlan> first = world.Plan();
  const std::optional<v1::StepPlan> second = world.Plan();
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_EQ(first->scheduled_size(), 4);
  EXPECT_EQ(second->scheduled_size(), 4);
  for (const auto& scheduled : first->scheduled()) {
    for (const auto& other : second->scheduled()) EXPECT_NE(scheduled.id(), other.id());
  }
}

// Tokens of a backlogged tenant as the scheduler charges them: an output token as two of a prompt.
TEST(SchedulerTest, TenantsAreServedByWeight) {
  for (const double weight : {1.0, 3.0}) {
    SchedulerOptions options{.max_num_seqs = 4};
    options.queue.tenant_weights["b"] = weight;
    World world(Pool(256), options);
    std::map<uint64_t, double*> service;
    double a = 0;
    double b = 0;
    for (int32_t i = 0; i < 60; ++i) {
      service[world.Add(Request(Text(20, i), 10, v1::PRIORITY_NORMAL, "a"), 1, 1)] = &a;
    }
    for (int32_t i = 0; i < 180; ++i) {
      service[world.Add(Request(Text(20, i), 10, v1::PRIORITY_NORMAL, "b"), 1, 2)] = &b;
    }
    // Whoever is behind gets the next place: they differ by what fills the places at most.
    const double most = 4 * (20 + 2 * 10);
    while (world.scheduler.num_sequences_of("a") > 4 && world.scheduler.num_sequences_of("b") > 4) {
      const v1::StepPlan plan = world.Step();
      for (const auto& scheduled : plan.scheduled()) {
        const bool decodes = scheduled.num_tokens() == 1;
        *service[scheduled.id()] += (decodes ? 2 : 1) * scheduled.num_tokens();
      }
      ASSERT_LE(std::abs(a - b / weight), most);
    }
    EXPECT_GT(a, 1000);
  }
}

TEST(SchedulerTest, OneRequestAtATimeGetsNoMoreThanItsWeight) {
  SchedulerOptions options{.max_num_seqs = 1};
  options.queue.tenant_weights["light"] = 0.25;
  World world(Pool(256), options);
  for (int32_t i = 0; i < 60; ++i) world.Add(Request(Text(20, i), 10), 1, 1);
  uint32_t served = 0;
  while (world.scheduler.num_sequences_of("a") > 21) {
    const std::vector<int32_t> prompt = Text(20, static_cast<int32_t>(served));  // not cached
    const uint64_t id = world.Add(Request(prompt, 10, v1::PRIORITY_NORMAL, "light"), 1, 2);
    while (world.scheduler.Find(id) != nullptr && world.scheduler.num_sequences_of("a") > 21) {
      world.Step();
    }
    ++served;
  }
  EXPECT_LE(served, 40 / 4 + 2);
}

TEST(SchedulerTest, ClassesAreStrict) {
  World world(Pool(256), {.max_num_seqs = 1});
  const uint64_t batch = world.Add(Request(Text(20), 2, v1::PRIORITY_BATCH));
  const uint64_t normal = world.Add(Request(Text(20), 2, v1::PRIORITY_UNSPECIFIED));
  const uint64_t high = world.Add(Request(Text(20), 2, v1::PRIORITY_HIGH));
  std::vector<uint64_t> order;
  while (world.scheduler.num_sequences() > 0) {
    const v1::StepPlan plan = world.Step();
    for (const v1::NewSequence& added : plan.new_sequences()) order.push_back(added.id());
  }
  EXPECT_EQ(order, (std::vector<uint64_t>{high, normal, batch}));
}

TEST(SchedulerTest, NobodyStarves) {
  SchedulerOptions options{.max_num_seqs = 2};
  options.queue.starvation_steps = 50;
  World world(Pool(256), options);
  const uint64_t batch = world.Add(Request(Text(20), 5, v1::PRIORITY_BATCH));
  const auto running = [&] {
    return world.scheduler.Find(batch)->state == SequenceState::kRunning;
  };
  uint32_t steps = 0;
  for (; steps < 200; ++steps) {
    while (world.scheduler.num_sequences() < 5) {
      world.Add(Request(Text(20, 5), 10, v1::PRIORITY_HIGH, "b"), 1, 1);
    }
    world.Step();
    if (running()) break;
  }
  // Once starved, it waits for one of two sequences with ten tokens each to end.
  EXPECT_GE(steps, 50u);
  EXPECT_LE(steps, 50u + 10 + 2);
}

TEST(SchedulerTest, LostGangIsForgottenButNotTheText) {
  World world(Pool(64));
  const uint64_t id = world.Add(Request(Text(20), 8));
  for (int i = 0; i < 3; ++i) world.Step();
  world.Lose();
  EXPECT_FALSE(world.Plan().has_value());
  world.Start(Pool(32, 8));
  const v1::StepPlan plan = world.Step();
  EXPECT_EQ(Announced(plan, id)->token_ids_size(), 23);
  EXPECT_EQ(plan.step(), 1u);
  world.Drain();
  EXPECT_EQ(world.heard[id], 8u);
}

TEST(SchedulerTest, KnowsWhichGangsHoldAllSequences) {
  World world(Pool(64));
  world.Add(Request(Text(20), 8));
  const auto all_fit = [&](uint32_t kv_blocks, uint32_t max_model_len) {
    GangCapacity capacity = Pool(kv_blocks);
    capacity.max_model_len = max_model_len;
    return world.scheduler.AllFit(capacity);
  };
  EXPECT_TRUE(all_fit(2, 28));
  world.Add(Request(Text(200), 8));
  EXPECT_FALSE(all_fit(12, 4096));
  EXPECT_FALSE(all_fit(64, 207));
  EXPECT_TRUE(all_fit(13, 208));
}

// A leader with tokens, its followers, and one that is paused.
TEST(SchedulerTest, ATakenRequestGoesOnInAnotherScheduler) {
  World world(Pool(64));
  const uint64_t leader = world.Add(Request(Text(20), 8), 3);
  world.scheduler.Pause(leader + 2);
  for (int i = 0; i < 3; ++i) world.Step();
  const uint64_t stays = world.Add(Request(Text(30), 8));
  const std::vector<uint64_t> ids = {leader, leader + 1, leader + 2};
  const std::vector<Sequence> taken = world.scheduler.Take(ids);
  EXPECT_EQ(world.scheduler.num_sequences(), 1u);
  EXPECT_EQ(world.scheduler.num_paused(), 0u);
  EXPECT_EQ(taken[0].tokens.size(), 23u);
  EXPECT_EQ(taken[0].num_prompt, 20u);
  EXPECT_TRUE(taken[2].paused);
  const v1::StepPlan plan = world.Step();  // tells the gang that they are gone
  EXPECT_GE(plan.finished_ids_size(), 2);
  EXPECT_NE(Announced(plan, stays), nullptr);
  world.scheduler.Add(taken);
  world.scheduler.Resume(leader + 2);
  world.Drain();
  for (uint64_t id = leader; id <= stays; ++id) EXPECT_EQ(world.heard[id], 8u) << id;
}

TEST(SchedulerTest, ASuspectThatMovesStaysOne) {
  World world(Pool(64));
  const uint64_t poison = world.Add(Request(Text(20), 8));
  for (int i = 0; i < 2; ++i) {
    world.Plan();
    world.Lose();
    if (i == 0) world.Start(Pool(64));
  }
  World other(Pool(64));
  other.scheduler.Add(world.scheduler.Take(std::vector{poison}));
  other.scheduler.Add({[] {
    Sequence innocent = Request(Text(5, 700), 4);
    innocent.id = 99;
    return innocent;
  }()});
  const std::optional<v1::StepPlan> plan = other.scheduler.Plan();
  ASSERT_EQ(plan->scheduled_size(), 1);
  EXPECT_EQ(plan->scheduled(0).id(), poison);
}

TEST(SchedulerTest, FindsWhatTheGangStillHasOfAPrompt) {
  World world(Pool(64));
  const uint64_t id = world.Add(Request(Text(40), 8));
  const BlockHash root = world.scheduler.Find(id)->cache_root;
  EXPECT_EQ(world.scheduler.CachedTokens(root, Text(40)), 0u);
  EXPECT_EQ(world.scheduler.TokensOutstanding(), 48u);
  world.Step();
  EXPECT_EQ(world.scheduler.TokensOutstanding(), 8u);
  world.Drain();
  EXPECT_EQ(world.scheduler.CachedTokens(root, Text(40)), 32u);
  EXPECT_EQ(world.scheduler.CachedTokens(root, Text(40, 1)), 0u);
  EXPECT_EQ(world.scheduler.CachedTokens({}, Text(40)), 0u);
  EXPECT_EQ(world.scheduler.TokensOutstanding(), 0u);
}

// Both were computed when two gangs died in a row; one of them is why.
TEST(SchedulerTest, WhatGangsDieOfIsFoundAloneAndNobodyElseIsGivenUp) {
  World world(Pool(64));
  const uint64_t poison = world.Add(Request(Text(20), 8));
  const uint64_t innocent = world.Add(Request(Text(20, 500), 8));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(world.Plan()->scheduled_size(), 2);
    EXPECT_TRUE(world.Lose().empty());
    world.Start(Pool(64));
  }
  const auto alone = [&](uint64_t id) {
    const std::optional<v1::StepPlan> plan = world.Plan();
    EXPECT_EQ(plan->scheduled_size(), 1);
    EXPECT_EQ(plan->scheduled(0).id(), id);
    EXPECT_FALSE(world.Plan().has_value());
  };
  alone(poison);
  EXPECT_TRUE(world.Lose().empty());
  world.Start(Pool(64));
  // No gang died under the innocent alone: it goes first now, and its token clears it.
  alone(innocent);
  world.Apply();
  for (int i = 0; i < 7; ++i) {
    ASSERT_EQ(world.Plan()->scheduled(0).id(), innocent);
    world.Apply();
  }
  alone(poison);
  EXPECT_EQ(world.Lose(), std::vector<uint64_t>{poison});
  world.Start(Pool(64));
  EXPECT_EQ(world.scheduler.Find(poison), nullptr);
  world.Drain();
  EXPECT_EQ(world.heard[innocent], 8u);
}

// As long as there are others, for a number of steps.
TEST(SchedulerTest, ASuspectThatAGangDiedUnderAloneStandsBack) {
  World world(Pool(64));
  const uint64_t suspect = world.Add(Request(Text(20), 8));
  for (int i = 0; i < 3; ++i) {
    world.Plan();
    EXPECT_TRUE(world.Lose().empty());
    world.Start(Pool(64));
  }
  const uint64_t other = world.Add(Request(Text(20, 500), 100));
  for (int i = 0; i < 16; ++i) {
    ASSERT_EQ(world.Plan()->scheduled(0).id(), other) << i;
    world.Apply();
  }
  const std::optional<v1::StepPlan> plan = world.Plan();
  ASSERT_EQ(plan->scheduled_size(), 1);
  EXPECT_EQ(plan->scheduled(0).id(), suspect);
  world.Apply();
  EXPECT_EQ(world.Plan()->scheduled_size(), 2);
}

// Faults that come so fast that nobody gets a token: no request is what they have in common.
TEST(SchedulerTest, GangsThatDieWithoutASuspectSpeakForIt) {
  World world(Pool(64));
  for (int i = 0; i < 4; ++i) world.Add(Request(Text(20, 100 * i), 8));
  for (int i = 0; i < 14; ++i) {
    ASSERT_TRUE(world.Plan().has_value());
    EXPECT_TRUE(world.Lose().empty()) << i;
    world.Start(Pool(64));
  }
  world.Drain();
  EXPECT_EQ(world.heard.size(), 4u);
}

// A host that is cut off is no request's fault; one that hangs its hosts is not computed for ever.
TEST(SchedulerTest, GangsThatAreSilentCountHalf) {
  for (const int silent : {0, 1, 3, 8, 20}) {
    World world(Pool(64));
    const uint64_t id = world.Add(Request(Text(20), 8));
    int lost = 0;
    std::vector<uint64_t> given_up;
    while (given_up.empty() && lost < 30) {
      ASSERT_TRUE(world.Plan().has_value());
      given_up = world.Lose(lost++ < silent);
      world.Start(Pool(64));
    }
    EXPECT_EQ(given_up, std::vector<uint64_t>{id});
    EXPECT_EQ(lost, 4 + std::min(silent, 12)) << silent;
  }
}

TEST(SchedulerTest, ATokenClearsASuspect) {
  World world(Pool(64));
  world.Add(Request(Text(20), 40), 2);
  world.Add(Request(Text(20, 500), 40));
  for (int i = 0; i < 10; ++i) {
    world.Step();
    world.Plan();
    EXPECT_TRUE(world.Lose().empty());
    world.Start(Pool(64));
    if (HasFailure()) return;
  }
}

TEST(SchedulerTest, ResultsOfAnotherEpochAreDropped) {
  World world(Pool(64));
  world.Add(Request(Text(20), 8));
  const std::optional<v1::StepPlan> plan = world.Plan();
  v1::StepResult stale;
  stale.set_epoch(plan->epoch() + 1);
  stale.set_step(plan->step());
  const absl::StatusOr<StepOutput> output = world.scheduler.Apply(stale);
  ASSERT_TRUE(output.ok());
  EXPECT_TRUE(output->tokens.empty());
  EXPECT_EQ(world.scheduler.plans_in_flight(), 1u);
}

TEST(SchedulerTest, WrongResultsAreRefused) {
  World world(Pool(64));
  const uint64_t id = world.Add(Request(Text(20), 8));
  const std::optional<v1::StepPlan> plan = world.Plan();
  v1::StepResult good;
  good.set_epoch(plan->epoch());
  good.set_step(plan->step());
  good.add_tokens()->set_sequence_id(id);
  v1::StepResult other_step = good;
  other_step.set_step(plan->step() + 1);
  v1::StepResult other_sequence = good;
  other_sequence.mutable_tokens(0)->set_sequence_id(id + 1);
  v1::StepResult no_token = good;
  no_token.clear_tokens();
  v1::StepResult no_word = good;
  no_word.mutable_tokens(0)->set_token_id(kVocab);
  v1::StepResult out_of_turn = good;
  out_of_turn.add_prompt_logprobs()->set_sequence_id(id);
  out_of_turn.mutable_prompt_logprobs(0)->set_position(2);
  for (const auto& result : {other_step, other_sequence, no_token, no_word, out_of_turn}) {
    EXPECT_EQ(world.scheduler.Apply(result).status().code(), absl::StatusCode::kInternal);
  }
  EXPECT_TRUE(world.scheduler.Apply(good).ok());
}

TEST(SchedulerTest, PromptLogprobsAreComputedOnce) {
  World world(Pool(64));
  world.Add(Request(Text(40), 1));
  world.Drain();
  // They come from computing the prompt, whatever is cached; but only as long as any is missing.
  Sequence request = Request(Text(40), 20);
  request.sampling.set_prompt_logprobs(1);
  const uint64_t id = world.Add(request);
  EXPECT_EQ(Tokens(world.Step()), 40u);
  world.scheduler.Pause(id);
  const uint64_t other = world.Add(Request(Text(1000, 100), 10));
  while (world.scheduler.stats().preemptions == 0 && !HasFailure()) world.Step();
  while (world.scheduler.Find(other) != nullptr && !HasFailure()) world.Step();
  world.scheduler.Resume(id);
  const v1::StepPlan plan = world.Step();
  ASSERT_NE(Announced(plan, id), nullptr);
  EXPECT_LE(Tokens(plan), 41u);
  world.Drain();
}

// A prompt that is cached costs a token to compute, but is told whole.
TEST(SchedulerTest, APlanTellsNoMoreTokensThanWorkersReceive) {
  World world(Pool(256), {.announced_tokens_max = 200});
  for (int i = 0; i < 4; ++i) world.Add(Request(Text(100), 2));
  size_t told = 0;
  int plans = 0;
  for (; told < 4; ++plans) {
    const v1::StepPlan plan = world.Step();
    EXPECT_LE(plan.new_sequences_size(), 2);
    told += static_cast<size_t>(plan.new_sequences_size());
  }
  EXPECT_EQ(plans, 2);
  world.Drain();
}

}  // namespace
}  // namespace trireme
