#include "worker/rank_health.h"

#include <gtest/gtest.h>

#include "tests/health_client.h"

namespace trireme {
namespace {

using std::chrono::seconds;

TEST(RankHealth, IsReadyWhileItsGangServesAndStepsGetOn) {
  RankHealth health{seconds(60)};
  const auto ready = [&](seconds later) { return health.Ready(RankHealth::Clock::now() + later); };
  EXPECT_FALSE(ready(seconds(0)));
  health.GetsOn();  // with a gang that is over
  health.Joined();
  EXPECT_FALSE(ready(seconds(0)));
  health.GetsOn();
  EXPECT_TRUE(ready(seconds(50)));
  EXPECT_FALSE(ready(seconds(61)));
  health.Left();
  health.GetsOn();
  EXPECT_FALSE(ready(seconds(0)));
}

// It is published within a fraction of a second.
void ExpectHealth(const std::string& address, const std::string& service, const std::string& want) {
  std::string got;
  for (int i = 0; i < 100 && got != want; ++i) {
    got = HealthOf(address, service);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_EQ(got, want) << service;
}

TEST(RankHealth, AnswersAliveAndReady) {
  RankHealth health{seconds(60)};
  const auto port = health.Listen("127.0.0.1:0");
  ASSERT_TRUE(port.ok()) << port.status();
  const std::string address = "127.0.0.1:" + std::to_string(*port);
  const auto expect_ready = [&](const std::string& want) {
    ExpectHealth(address, "", want);
    ExpectHealth(address, "readiness", want);
    ExpectHealth(address, "liveness", "SERVING");
  };
  expect_ready("NOT_SERVING");
  health.Joined();
  expect_ready("NOT_SERVING");
  health.GetsOn();
  expect_ready("SERVING");
  health.Left();
  expect_ready("NOT_SERVING");
}

TEST(RankHealth, IsNotReadyWhenItDoesNotGetOn) {
  RankHealth health{std::chrono::milliseconds(1)};
  const auto port = health.Listen("127.0.0.1:0");
  ASSERT_TRUE(port.ok()) << port.status();
  health.Joined();
  health.GetsOn();
  const std::string address = "127.0.0.1:" + std::to_string(*port);
  ExpectHealth(address, "readiness", "NOT_SERVING");
  ExpectHealth(address, "liveness", "SERVING");
}

TEST(RankHealth, APortInUseIsAnError) {
  RankHealth first{seconds(1)};
  const auto port = first.Listen("127.0.0.1:0");
  ASSERT_TRUE(port.ok());
  RankHealth second{seconds(1)};
  const auto again = second.Listen("127.0.0.1:" + std::to_string(*port));
  EXPECT_TRUE(absl::IsUnavailable(again.status())) << again.status();
}

}  // namespace
}  // namespace trireme
