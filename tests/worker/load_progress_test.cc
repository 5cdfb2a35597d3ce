// What a rank says while it loads, and when it is ready.

#include "worker/load_progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/log.h"
#include "worker/start_phases.h"

namespace trireme {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

TEST(LoadProgress, SaysBytesRateAndWhatIsLeft) {
  EXPECT_EQ(DescribeProgress(45'000'000'000, 180'000'000'000, 10'000'000'000, seconds(5)),
            "loading: 45.00 of 180.00 GB (25 %), 2.00 GB/s, 68 s to go");
}

TEST(LoadProgress, SaysThatNothingComes) {
  EXPECT_EQ(DescribeProgress(500'000'000, 2'000'000'000, 0, seconds(15)),
            "loading: 0.50 of 2.00 GB (25 %), nothing for 15 s");
}

TEST(LoadProgress, LogsEachInterval) {
  InitLog("test", LogLevel::kInfo);
  testing::internal::CaptureStderr();
  {
    LoadCount count;
    count.total = 4'000'000'000;
    LoadProgress progress(count, milliseconds(20));
    count.done += 1'000'000'000;
    std::this_thread::sleep_for(milliseconds(200));
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("loading: 1.00 of 4.00 GB (25 %), "));
  EXPECT_THAT(log, HasSubstr("loading: 1.00 of 4.00 GB (25 %), nothing for 0 s"));
}

TEST(LoadProgress, SaysNothingOfAShortLoad) {
  InitLog("test", LogLevel::kInfo);
  testing::internal::CaptureStderr();
  LoadCount count;
  { LoadProgress progress(count); }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(StartPhases, AddUpToTheTimeUntilReady) {
  const StartPhases::Clock::time_point start{};
  StartPhases phases(start);
  phases.End("gang", start + milliseconds(1000));
  phases.End("weights", start + milliseconds(8500));
  phases.End("gang", start + milliseconds(9510));
  EXPECT_EQ(phases.Describe(), "ready after 9.51 s: gang 2.01, weights 7.50");
}

}  // namespace
}  // namespace trireme
