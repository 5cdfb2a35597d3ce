// The scheduler against a worker that checks every plan: random arrivals, cancels and lost gangs
// from a seed, invariants after each step. TRIREME_SCHEDULER_SEEDS sets how many seeds.

#include "coordinator/scheduler.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <set>

namespace trireme {
namespace {

constexpr uint32_t kVocab = 97;

// The token that follows a text: a function of the whole text, so that a replay is seen if it
// differs.
int32_t NextToken(const std::vector<int32_t>& tokens) {
  uint64_t hash = 1469598103934665603u;
  for (const int32_t token : tokens) hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211u;
  return static_cast<int32_t>((hash >> 20) % kVocab);
}

// Takes plans as a worker does, and fails the test on any that a worker would refuse.
class FakeGang {
 public:
  FakeGang(const GangCapacity& capacity, uint32_t budget) : capacity_(capacity), budget_(budget) {}

  v1::StepResult Step(const v1::StepPlan& plan) {
    EXPECT_EQ(plan.epoch(), capacity_.epoch);
    EXPECT_EQ(plan.step(), ++step_);
    for (const uint64_t id : plan.finished_ids()) EXPECT_EQ(sequences_.erase(id), 1u);
    for (const v1::NewSequence& added : plan.new_sequences()) Add(added);
    v1::StepResult result;
    result.set_epoch(plan.epoch());
    result.set_step(plan.step());
    uint32_t tokens = 0;
    std::set<uint64_t> scheduled_ids;
    for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
      EXPECT_TRUE(scheduled_ids.insert(scheduled.id()).second) << "scheduled twice";
      tokens += scheduled.num_tokens();
      Compute(scheduled, result);
    }
    EXPECT_GT(tokens, 0u);
    EXPECT_LE(tokens, budget_);
    CheckBlocks();
    return result;
  }

 private:
  struct State {
    std::vector<int32_t> tokens;
    uint32_t computed = 0;
    std::vector<uint32_t> blocks;
  };

  void Add(const v1::NewSequence& added) {
    EXPECT_FALSE(sequences_.contains(added.id()));
    sequences_[added.id()].tokens = {added.token_ids().begin(), added.token_ids().end()};
  }

  void Compute(const v1::ScheduledSequence& scheduled, v1::StepResult& result) {
    ASSERT_TRUE(sequences_.contains(scheduled.id()));
    State& state = sequences_[scheduled.id()];
    state.blocks.insert(state.blocks.end(), scheduled.new_block_ids().begin(),
                        scheduled.new_block_ids().end());
    state.computed += scheduled.num_tokens();
    ASSERT_LE(state.computed, state.tokens.size());
    ASSERT_LE(state.computed, state.blocks.size() * capacity_.kv_block_size);
    EXPECT_EQ(scheduled.sample(), state.computed == state.tokens.size());
    if (!scheduled.sample()) return;
    v1::SampledToken& token = *result.add_tokens();
    token.set_sequence_id(scheduled.id());
    token.set_token_id(NextToken(state.tokens));
    state.tokens.push_back(token.token_id());
  }

  void CheckBlocks() const {
    std::set<uint32_t> owned;
    for (const auto& [id, state] : sequences_) {
      for (const uint32_t block : state.blocks) {
        EXPECT_LT(block, capacity_.kv_blocks);
        EXPECT_TRUE(owned.insert(block).second) << "block " << block << " has two owners";
      }
    }
  }

  const GangCapacity capacity_;
  const uint32_t budget_;
  uint64_t step_ = 0;
  std::map<uint64_t, State> sequences_;
};

// One client's view.
struct Expectation {
  std::vector<int32_t> text;  // prompt, then every token heard
  uint32_t heard = 0;
  uint32_t max_tokens = 0;
  bool ended = false;
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : random_(seed),
        options_{.max_num_seqs = 1 + Below(6),
                 .max_num_batched_tokens = 4 + Below(40),
                 .vocab_size = kVocab,
                 .gangs_lost_max = 1'000'000},
        scheduler_(options_) {}

  void Run() {
    for (int step = 0; step < 120 && !testing::Test::HasFailure(); ++step) {
      if (Below(3) == 0) Arrive();
      if (Below(12) == 0) CancelOne();
      if (Below(25) == 0) LoseGang();
      StepOnce();
    }
    for (int step = 0; step < 5000 && Open() > 0 && !testing::Test::HasFailure(); ++step)
      StepOnce();
    EXPECT_EQ(Open(), 0u) << "a sequence starves";
    EXPECT_EQ(scheduler_.num_running() + scheduler_.num_waiting(), 0u);
    if (scheduler_.has_gang()) {
      EXPECT_EQ(scheduler_.blocks().num_free(), scheduler_.blocks().num_blocks());
    }
  }

 private:
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  size_t Open() const {
    size_t open = 0;
    for (const auto& [id, expectation] : expectations_) open += expectation.ended ? 0 : 1;
    return open;
  }

  void Arrive() {
    Sequence sequence;
    sequence.id = ++last_id_;
    const uint32_t prompt = 1 + Below(50);
    for (uint32_t i = 0; i < prompt; ++i)
      sequence.tokens.push_back(static_cast<int32_t>(Below(kVocab)));
    sequence.max_tokens = 1 + Below(20);
    if (Below(2) == 0) sequence.stop_token_ids = {static_cast<int32_t>(Below(kVocab))};
    expectations_[sequence.id] = {
        .text = sequence.tokens, .heard = 0, .max_tokens = sequence.max_tokens, .ended = false};
    scheduler_.Add(std::move(sequence));
  }

  void CancelOne() {
    if (last_id_ == 0) return;
    const uint64_t id = 1 + Below(static_cast<uint32_t>(last_id_));
    scheduler_.Cancel(id);
    expectations_[id].ended = true;
  }

  void LoseGang() {
    if (!scheduler_.has_gang()) return;
    EXPECT_TRUE(scheduler_.GangLost().empty());
    gang_.reset();
  }

  void EnsureGang() {
    if (gang_.has_value()) return;
    const GangCapacity capacity{.epoch = ++epoch_,
                                .kv_block_size = 16,
                                .kv_blocks = 5 + Below(20),
                                .max_model_len = 80,
                                .max_num_batched_tokens = 8 + Below(64)};
    EXPECT_TRUE(scheduler_.GangReady(capacity).empty());
    gang_.emplace(capacity,
                  std::min(capacity.max_num_batched_tokens, options_.max_num_batched_tokens));
  }

  void StepOnce() {
    EnsureGang();
    const std::optional<v1::StepPlan> plan = scheduler_.Plan();
    Check();
    if (!plan.has_value()) return;
    EXPECT_FALSE(scheduler_.Plan().has_value()) << "two plans in flight";
    v1::StepResult result = gang_->Step(*plan);
    v1::StepResult stale = result;
    stale.set_epoch(epoch_ - 1);
    EXPECT_TRUE(scheduler_.Apply(stale)->empty()) << "a result of another epoch";
    if (Below(15) == 0) CancelOne();  // while the step runs
    const auto outputs = scheduler_.Apply(result);
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    EXPECT_FALSE(scheduler_.Apply(result).ok()) << "the same result twice";
    for (const SequenceOutput& output : *outputs) Hear(output);
    Check();
  }

  void Hear(const SequenceOutput& output) {
    Expectation& expectation = expectations_.at(output.token.sequence_id());
    EXPECT_FALSE(expectation.ended) << "output after the end";
    EXPECT_EQ(output.token.token_id(), NextToken(expectation.text)) << "a token lost or twice";
    expectation.text.push_back(output.token.token_id());
    ++expectation.heard;
    EXPECT_LE(expectation.heard, expectation.max_tokens);
    if (output.finish_reason == v1::FINISH_REASON_LENGTH) {
      EXPECT_EQ(expectation.heard, expectation.max_tokens);
    }
    expectation.ended = output.finish_reason != v1::FINISH_REASON_UNSPECIFIED;
  }

  void Check() {
    const absl::Status status = scheduler_.CheckIntegrity();
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_LE(scheduler_.num_running(), options_.max_num_seqs);
  }

  std::mt19937_64 random_;
  const SchedulerOptions options_;
  Scheduler scheduler_;
  std::optional<FakeGang> gang_;
  uint64_t epoch_ = 1;
  uint64_t last_id_ = 0;
  std::map<uint64_t, Expectation> expectations_;
};

TEST(Scheduler, RandomLivesKeepTheInvariants) {
  const char* text = std::getenv("TRIREME_SCHEDULER_SEEDS");
  const uint64_t seeds = text != nullptr ? std::strtoull(text, nullptr, 10) : 10'000;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    Simulation(seed).Run();
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
}

Sequence MakeSequence(uint64_t id, size_t prompt, uint32_t max_tokens) {
  Sequence sequence;
  sequence.id = id;
  sequence.tokens.assign(prompt, 1);
  sequence.max_tokens = max_tokens;
  return sequence;
}

GangCapacity Capacity(uint32_t blocks) {
  return {.epoch = 1,
          .kv_block_size = 16,
          .kv_blocks = blocks,
          .max_model_len = 1024,
          .max_num_batched_tokens = 512};
}

TEST(Scheduler, NoPlanWithoutGangOrWork) {
  Scheduler scheduler({.vocab_size = kVocab});
  EXPECT_FALSE(scheduler.Plan().has_value());
  scheduler.Add(MakeSequence(1, 4, 4));
  EXPECT_FALSE(scheduler.Plan().has_value());
  EXPECT_TRUE(scheduler.GangReady(Capacity(8)).empty());
  EXPECT_TRUE(scheduler.Plan().has_value());
}

TEST(Scheduler, ALongPromptIsCutIntoChunksOfTheBudget) {
  Scheduler scheduler({.max_num_batched_tokens = 10, .vocab_size = kVocab});
  ASSERT_TRUE(scheduler.GangReady(Capacity(8)).empty());
  scheduler.Add(MakeSequence(1, 25, 2));
  for (const uint32_t want : {10u, 10u, 5u}) {
    const auto plan = scheduler.Plan();
    ASSERT_TRUE(plan.has_value());
    EXPECT_EQ(plan->scheduled(0).num_tokens(), want);
    EXPECT_EQ(plan->scheduled(0).sample(), want == 5);
    v1::StepResult result;
    result.set_epoch(1);
    result.set_step(plan->step());
    if (want == 5) {
      result.add_tokens()->set_sequence_id(1);
    }
    ASSERT_TRUE(scheduler.Apply(result).ok());
  }
}

TEST(Scheduler, ASequenceThatCanNeverFitIsNamed) {
  Scheduler scheduler({.vocab_size = kVocab});
  scheduler.Add(MakeSequence(1, 100, 100));
  scheduler.Add(MakeSequence(2, 10, 10));
  EXPECT_EQ(scheduler.GangReady(Capacity(4)), std::vector<uint64_t>{1});
}

TEST(Scheduler, ATokenOutsideTheVocabularyIsAnError) {
  Scheduler scheduler({.vocab_size = kVocab});
  ASSERT_TRUE(scheduler.GangReady(Capacity(8)).empty());
  scheduler.Add(MakeSequence(1, 3, 2));
  const auto plan = scheduler.Plan();
  v1::StepResult result;
  result.set_epoch(1);
  result.set_step(plan->step());
  result.add_tokens()->set_sequence_id(1);
  result.mutable_tokens(0)->set_token_id(kVocab);
  EXPECT_FALSE(scheduler.Apply(result).ok());
}

}  // namespace
}  // namespace trireme
