#include "cluster/server_stats.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

TEST(StatsDeltaTest, IsTheDifferenceOfTheCounters) {
  v1::GetStatsResponse before, after;
  before.set_steps(10);
  before.set_step_ms_total(100);
  before.set_prefix_tokens_hit(7);
  after = before;
  after.set_steps(30);
  after.set_step_ms_total(400);
  after.set_idle_ms_total(100);
  after.set_bubble_ms_total(30);
  after.set_prefix_tokens_asked(40);
  after.set_prefix_tokens_hit(17);
  after.set_running(3);
  const auto delta = StatsDelta::Between(before, after);
  ASSERT_TRUE(delta.has_value());
  EXPECT_EQ(delta->steps, 20u);
  EXPECT_DOUBLE_EQ(delta->MeanStepMs(), 15);
  EXPECT_DOUBLE_EQ(delta->IdleShare(), 0.25);
  EXPECT_DOUBLE_EQ(delta->BubbleShare(), 0.1);
  EXPECT_DOUBLE_EQ(delta->HitShare(), 0.25);
}

TEST(StatsDeltaTest, NothingHappenedIsNoDivisionByZero) {
  const auto delta = StatsDelta::Between({}, {});
  ASSERT_TRUE(delta.has_value());
  EXPECT_EQ(delta->MeanStepMs(), 0);
  EXPECT_EQ(delta->IdleShare(), 0);
  EXPECT_EQ(delta->HitShare(), 0);
}

TEST(StatsDeltaTest, CountersThatGoBackAreARestart) {
  v1::GetStatsResponse before;
  before.set_steps(10);
  EXPECT_FALSE(StatsDelta::Between(before, {}).has_value());
}

TEST(ToJsonLineTest, KeepsZerosAndNames) {
  const std::string line = ToJsonLine(v1::GetStatsResponse());
  EXPECT_NE(line.find("\"kv_tokens_used\":\"0\""), std::string::npos) << line;
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace trireme
