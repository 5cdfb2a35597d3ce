#include "parallel/link_test.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/parallel/rank_threads.h"

namespace trireme {
namespace {

TEST(LinkTest, MeasuresEveryPairOnEveryRank) {
  for (const int ranks : {1, 2, 3, 4}) {
    RunLoopbackRanks(ranks, [ranks](Communicator& world) {
      const std::vector<std::string> hosts(static_cast<size_t>(ranks), "a");
      const auto table = MeasureLinks(world, hosts, 1.25);
      ASSERT_TRUE(table.ok()) << table.status();
      for (int a = 0; a < ranks; ++a) {
        for (int b = a + 1; b < ranks; ++b) {
          EXPECT_GT(table->link(a, b).small_us, 0);
          EXPECT_GT(table->link(a, b).large_gb_s, 0);
        }
      }
      EXPECT_EQ(table->all_reduce_us > 0, ranks > 1);
      EXPECT_EQ(table->wire_gb_s, std::vector<double>(static_cast<size_t>(ranks), 1.25));
    });
  }
}

// Six ranks on three hosts; links inside are fast.
LinkTable Table() {
  LinkTable table;
  table.hosts = {"a", "a", "b", "b", "c", "c"};
  table.links.resize(36);
  for (size_t a = 0; a < 6; ++a) {
    for (size_t b = 0; b < 6; ++b) {
      table.links[a * 6 + b] = a / 2 == b / 2 ? LinkTimes{5, 10} : LinkTimes{50, 1};
    }
  }
  return table;
}

TEST(LinkTest, SlowerBetweenHostsIsUsual) {
  EXPECT_TRUE(SlowLinks(Table()).empty());
  EXPECT_EQ(
      DescribeLinks(Table()),
      "links, measured for 0.0 s: inside a host 5 us and 10 GB/s; between hosts 50 us and 1 GB/s");
}

TEST(LinkTest, NamesASlowLink) {
  LinkTable table = Table();
  table.links[1 * 6 + 2] = {60, 0.1};
  EXPECT_EQ(SlowLinks(table),
            std::vector<std::string>{"the link between rank 1 (a) and rank 2 (b) is slow: 60 us "
                                     "and 0.1 GB/s, where 50 us and 1 GB/s are usual"});
}

TEST(LinkTest, NamesASlowRankInsteadOfItsLinks) {
  LinkTable table = Table();
  for (const size_t other : {0, 1, 4, 5}) {
    table.links[std::min<size_t>(3, other) * 6 + std::max<size_t>(3, other)] = {5000, 1};
  }
  EXPECT_EQ(SlowLinks(table),
            std::vector<std::string>{
                "rank 3 (b) is slow: 4 of its 4 links between hosts take about 5000 us and 1 GB/s, "
                "where 50 us and 1 GB/s are usual"});
}

// Two of the three links are slow.
TEST(LinkTest, NamesTheSlowOneOfThreeHosts) {
  LinkTable table;
  table.hosts = {"a", "b", "c"};
  table.links.resize(9, {50, 1});
  table.links[0 * 3 + 1] = table.links[1 * 3 + 2] = {50, 0.01};
  EXPECT_EQ(SlowLinks(table), std::vector<std::string>{
                                  "rank 1 (b) is slow: 2 of its 2 links between hosts take "
                                  "about 50 us and 0.01 GB/s, where 50 us and 1 GB/s are usual"});
}

TEST(LinkTest, TwoLinksDoNotTellWhatIsUsual) {
  LinkTable table;
  table.hosts = {"a", "a", "b"};
  table.links.resize(9, {50, 1});
  table.links[2] = {5000, 0.01};
  EXPECT_TRUE(SlowLinks(table).empty());
}

TEST(LinkTest, NamesASlowRankInsideAHost) {
  LinkTable table;
  table.hosts.assign(4, "a");
  table.links.resize(16, {5, 10});
  for (const size_t other : {0, 1, 2}) table.links[other * 4 + 3] = {5, 1};
  EXPECT_EQ(SlowLinks(table),
            std::vector<std::string>{"rank 3 (a) is slow: 3 of its 3 links inside a host take "
                                     "about 5 us and 1 GB/s, where 5 us and 10 GB/s are usual"});
}

// As one that has come down to 100 Mbit/s behind a switch.
TEST(LinkTest, OneLinkIsComparedWithItsInterfaces) {
  LinkTable table;
  table.hosts = {"a", "b"};
  table.links.resize(4, {50, 0.012});
  EXPECT_TRUE(SlowLinks(table).empty());
  table.wire_gb_s = {1.25, 0};
  EXPECT_TRUE(SlowLinks(table).empty());
  table.wire_gb_s = {1.25, 12.5};
  EXPECT_EQ(SlowLinks(table), std::vector<std::string>{
                                  "the link between rank 0 (a) and rank 1 (b) is slow: 50 us and "
                                  "0.012 GB/s, where the network interfaces could do 1.25 GB/s"});
  table.links[1].large_gb_s = 0.3;
  EXPECT_TRUE(SlowLinks(table).empty());
}

TEST(LinkTest, WithoutTimeEveryLinkIsMeasuredOnce) {
  RunLoopbackRanks(4, [](Communicator& world) {
    const std::vector<std::string> hosts(4, "a");
    const auto table = MeasureLinks(world, hosts, 0, std::chrono::milliseconds(0));
    ASSERT_TRUE(table.ok()) << table.status();
    EXPECT_GT(table->link(0, 3).large_gb_s, 0);
    EXPECT_GT(table->all_reduce_us, 0);
  });
}

TEST(LinkTest, ARankThatIsGoneIsAnError) {
  RunLoopbackRanks(3, [](Communicator& world) {
    if (world.rank() == 1) return;
    const std::vector<std::string> hosts(3, "a");
    EXPECT_EQ(MeasureLinks(world, hosts).status().code(), absl::StatusCode::kUnavailable);
  });
}

}  // namespace
}  // namespace trireme
