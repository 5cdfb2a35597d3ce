#include "coordinator/wait_queue.h"

#include <gtest/gtest.h>

#include <deque>
#include <string>

namespace trireme {
namespace {

constexpr uint64_t kStarvation = 100;

class WaitQueueTest : public testing::Test {
 protected:
  Sequence& Enter(const std::string& tenant, v1::Priority priority = v1::PRIORITY_NORMAL,
                  uint64_t step = 0) {
    Sequence& sequence = sequences_.emplace_back();
    sequence.id = sequences_.size();
    sequence.tokens.resize(10);
    sequence.priority = priority;
    sequence.tenant = queue_.Enter(tenant);
    Push(sequence, step);
    return sequence;
  }
  void Push(Sequence& sequence, uint64_t step = 0) {
    sequence.state = SequenceState::kWaiting;
    sequence.queued_step = step;
    queue_.Push(sequence);
  }
  void End(Sequence& sequence) {
    queue_.Remove(sequence);
    queue_.Leave(sequence.tenant);
  }
  uint64_t Next(uint64_t step = 0) const { return queue_.Next(step)->id; }
  void TearDown() override { EXPECT_TRUE(queue_.CheckIntegrity().ok()); }

  WaitQueue queue_{{.starvation_steps = kStarvation, .tenant_weights = {{"heavy", 3}}}};
  std::deque<Sequence> sequences_;
};

TEST_F(WaitQueueTest, NobodyWaits) {
  EXPECT_EQ(queue_.Next(0), nullptr);
  EXPECT_TRUE(queue_.empty());
}

TEST_F(WaitQueueTest, OldestOfATenantFirst) {
  Sequence& first = Enter("a");
  Sequence& second = Enter("a");
  queue_.Remove(first);
  Push(first);
  EXPECT_EQ(Next(), first.id);
  End(first);
  EXPECT_EQ(Next(), second.id);
}

TEST_F(WaitQueueTest, HigherClassFirst) {
  Enter("a", v1::PRIORITY_BATCH);
  Sequence& normal = Enter("a", v1::PRIORITY_NORMAL);
  Sequence& high = Enter("b", v1::PRIORITY_HIGH);
  high.tenant->served = 1000;
  EXPECT_EQ(Next(), high.id);
  End(high);
  EXPECT_EQ(Next(), normal.id);
}

TEST_F(WaitQueueTest, LeastServedTenantFirst) {
  Sequence& a = Enter("a");
  Sequence& b = Enter("b");
  EXPECT_EQ(Next(), a.id);
  a.tenant->served = 5;
  EXPECT_EQ(Next(), b.id);
  b.tenant->served = 6;
  EXPECT_EQ(Next(), a.id);
}

TEST_F(WaitQueueTest, StarvedFirstAndTheLongestWaitingOfThem) {
  Sequence& old = Enter("a", v1::PRIORITY_NORMAL, /*step=*/150);  // came first, was preempted
  Sequence& batch = Enter("b", v1::PRIORITY_BATCH, /*step=*/0);
  EXPECT_EQ(Next(kStarvation), old.id);
  EXPECT_EQ(Next(kStarvation + 1), batch.id);
  EXPECT_EQ(Next(300), batch.id);  // both are starved
}

TEST_F(WaitQueueTest, NewcomerStartsLevelWithThoseThatWait) {
  Enter("a").tenant->served = 50;
  Enter("b").tenant->served = 70;
  EXPECT_EQ(Enter("c").tenant->served, 50);
}

TEST_F(WaitQueueTest, WhoDoesNotWaitSetsNoLevel) {
  queue_.Enter("paused");  // has a sequence, which does not wait
  Enter("a").tenant->served = 50;
  EXPECT_EQ(Enter("b").tenant->served, 50);
}

TEST_F(WaitQueueTest, ALowerClassSetsNoLevel) {
  Enter("a", v1::PRIORITY_BATCH);
  Enter("b", v1::PRIORITY_HIGH).tenant->served = 50;
  EXPECT_EQ(Enter("c", v1::PRIORITY_HIGH).tenant->served, 50);
}

TEST_F(WaitQueueTest, LeavingDoesNotClearWhatATenantHad) {
  Enter("a").tenant->served = 50;
  Sequence& b = Enter("b");
  b.tenant->served = 80;
  End(b);
  EXPECT_EQ(Enter("b").tenant->served, 80);
}

TEST_F(WaitQueueTest, CountsWhatIsAhead) {
  Enter("a", v1::PRIORITY_HIGH);
  Enter("a", v1::PRIORITY_NORMAL);
  Sequence& batch = Enter("b", v1::PRIORITY_BATCH);
  EXPECT_EQ(queue_.SequencesAhead(v1::PRIORITY_HIGH), 1u);
  EXPECT_EQ(queue_.TokensAhead(v1::PRIORITY_NORMAL), 20u);
  EXPECT_EQ(queue_.SequencesAhead(v1::PRIORITY_BATCH), 3u);
  EXPECT_EQ(queue_.TenantSequences("a"), 2u);
  End(batch);
  EXPECT_EQ(queue_.SequencesAhead(v1::PRIORITY_BATCH), 2u);
  EXPECT_EQ(queue_.TenantSequences("b"), 0u);
}

}  // namespace
}  // namespace trireme
