#include "worker/memory_amount.h"

#include <gtest/gtest.h>

#include "kernels/memory.h"

namespace trireme {
namespace {

TEST(MemoryAmount, BytesWithAndWithoutUnits) {
  const auto bytes = [](std::string_view text) {
    const auto amount = ParseMemoryAmount(text);
    EXPECT_TRUE(amount.ok() && amount->fraction == 0) << text;
    return amount.ok() ? amount->bytes : -1;
  };
  EXPECT_EQ(bytes("0"), 0);
  EXPECT_EQ(bytes("1"), 1);
  EXPECT_EQ(bytes("123456789012"), 123456789012);
  EXPECT_EQ(bytes("7b"), 7);
  EXPECT_EQ(bytes("64MiB"), 64 << 20);
  EXPECT_EQ(bytes("64 mb"), 64 << 20);
  EXPECT_EQ(bytes("1.5G"), int64_t{3} << 29);
  EXPECT_EQ(bytes("2TiB"), int64_t{2} << 40);
}

TEST(MemoryAmount, SharesOfWhatIsAvailable) {
  EXPECT_EQ(ParseMemoryAmount("0.4")->fraction, 0.4);
  EXPECT_EQ(ParseMemoryAmount("1.0")->fraction, 1.0);
  EXPECT_EQ(ParseMemoryAmount("40%")->fraction, 0.4);
  EXPECT_EQ(ParseMemoryAmount("0.5%")->fraction, 0.005);
}

TEST(MemoryAmount, AsMuchAsIsNeededUpToAShare) {
  EXPECT_TRUE(ParseMemoryAmount("auto")->as_needed);
  EXPECT_EQ(ParseMemoryAmount("auto")->fraction, 0.25);
  EXPECT_EQ(ParseMemoryAmount("auto/4")->fraction, 0.0625);
  EXPECT_FALSE(ParseMemoryAmount("40%")->as_needed);
}

TEST(MemoryAmount, RefusesTheRest) {
  for (const char* text : {"",
                           "auto/",
                           "auto/0",
                           "auto 1",
                           "auto/x",
                           "automatic",
                           "GiB",
                           "x",
                           "1XiB",
                           "-1",
                           "1.5",
                           "0.0",
                           "101%",
                           "0%",
                           "1..2",
                           "1GiBs",
                           "99999999999999TiB",
                           "nan",
                           "1e3",
                           "5%%",
                           "1ki b"}) {
    const auto amount = ParseMemoryAmount(text);
    EXPECT_TRUE(absl::IsInvalidArgument(amount.status())) << text;
  }
}

TEST(HostMemory, SomeIsAvailable) {
  const auto available = HostMemory().Available();
  ASSERT_TRUE(available.ok()) << available.status();
  EXPECT_GT(*available, int64_t{1} << 20);
}

}  // namespace
}  // namespace trireme
