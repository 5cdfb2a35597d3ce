#include "coordinator/replica.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

namespace trireme {
namespace {

using std::chrono::milliseconds;

v1::StepResult ResultOf(const v1::StepPlan& plan, double step_ms) {
  v1::StepResult result;
  result.set_epoch(plan.epoch());
  result.set_step(plan.step());
  result.set_step_ms(step_ms);
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    result.add_tokens()->set_sequence_id(scheduled.id());
  }
  return result;
}

// A gang with one sequence.
Replica Serving() {
  ReplicaOptions options;
  options.scheduler.vocab_size = 10;
  Replica replica(options);
  const GangCapacity gang{.epoch = 1,
                          .kv_block_size = 16,
                          .kv_blocks = 4,
                          .max_model_len = 64,
                          .max_num_batched_tokens = 64};
  replica.Begin(gang, "v1");
  Sequence sequence;
  sequence.id = 1;
  sequence.tokens = {1, 2, 3};
  sequence.max_tokens = 8;
  std::vector<Sequence> one;
  one.push_back(std::move(sequence));
  replica.scheduler().Add(std::move(one));
  return replica;
}

// Of each step once: four seconds, or ten times the step before it.
TEST(Replica, TellsOfASlowStep) {
  Replica replica = Serving();
  EXPECT_FALSE(replica.slow_step().has_value());

  Replica::Time now{};
  std::optional<v1::StepPlan> plan = replica.Plan(now);
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(replica.slow_step(), now + milliseconds(4000));
  replica.ForgetSlowStep();
  EXPECT_FALSE(replica.slow_step().has_value());
  ASSERT_TRUE(replica.Apply(ResultOf(*plan, 700), now).ok());

  now += milliseconds(700);
  plan = replica.Plan(now);
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(replica.slow_step(), now + milliseconds(7000));
  ASSERT_TRUE(replica.Apply(ResultOf(*plan, 1), now).ok());
  EXPECT_FALSE(replica.slow_step().has_value());

  ASSERT_TRUE(replica.Plan(now).has_value());
  EXPECT_EQ(replica.slow_step(), now + milliseconds(4000));
  replica.End("a rank has gone", {}, /*silent=*/false);
  EXPECT_FALSE(replica.slow_step().has_value());
}

TEST(Replica, AStepThatTookATimeThatThereIsNotIsRefused) {
  for (const double ms : {-1.0, std::nan(""), 1e300}) {
    Replica replica = Serving();
    const auto plan = replica.Plan({});
    ASSERT_TRUE(plan.has_value());
    EXPECT_EQ(replica.Apply(ResultOf(*plan, ms), {}).status().code(), absl::StatusCode::kInternal);
  }
}

}  // namespace
}  // namespace trireme
