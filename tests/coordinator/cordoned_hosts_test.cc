#include "coordinator/cordoned_hosts.h"

#include <gtest/gtest.h>

#include <string>

namespace trireme {
namespace {

TEST(CordonedHostsTest, NamesAreBounded) {
  CordonedHosts cordoned;
  EXPECT_EQ(cordoned.Cordon("", false).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cordoned.Cordon(std::string(257, 'x'), false).code(),
            absl::StatusCode::kInvalidArgument);
  for (int i = 0; i < 4096; ++i) ASSERT_TRUE(cordoned.Cordon(std::to_string(i), false).ok());
  EXPECT_EQ(cordoned.Cordon("one more", false).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(cordoned.Cordon("7", false).ok());
  EXPECT_EQ(cordoned.List().size(), 4096U);
}

TEST(CordonedHostsTest, AreKnownByTheirRanks) {
  CordonedHosts cordoned;
  ASSERT_TRUE(cordoned.Cordon("typo", false).ok());
  ASSERT_TRUE(cordoned.Cordon("typo", false).ok());
  EXPECT_FALSE(cordoned.IsKnown("typo"));
  ASSERT_TRUE(cordoned.Cordon("drained", true).ok());
  ASSERT_TRUE(cordoned.Cordon("drained", false).ok());
  EXPECT_TRUE(cordoned.IsKnown("drained"));
  ASSERT_TRUE(cordoned.Cordon("late", false).ok());
  EXPECT_FALSE(cordoned.Check("late").ok());  // a rank comes
  EXPECT_TRUE(cordoned.IsKnown("late"));
  EXPECT_FALSE(cordoned.IsKnown("other"));
}

}  // namespace
}  // namespace trireme
