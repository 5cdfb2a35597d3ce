#include "coordinator/loading_ranks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace trireme {
namespace {

using std::chrono::seconds;

constexpr LoadingRanks::Time kStart{};
constexpr seconds kSilenceMax{10};

v1::LoadingRank Rank(const std::string& host, uint32_t rank, uint32_t pid) {
  v1::LoadingRank loading;
  loading.set_rank(rank);
  loading.set_world_size(4);
  loading.set_host(host);
  loading.set_pid(pid);
  loading.set_bytes_done(5);
  loading.set_bytes_total(10);
  return loading;
}

TEST(LoadingRanks, AreListedByHostAndRankWithTheirLastReport) {
  CordonedHosts cordoned;
  LoadingRanks ranks{kSilenceMax, cordoned};
  ASSERT_TRUE(ranks.Report(Rank("b", 2, 7), kStart).ok());
  ASSERT_TRUE(ranks.Report(Rank("a", 1, 9), kStart).ok());
  ASSERT_TRUE(ranks.Report(Rank("a", 0, 10), kStart).ok());
  v1::LoadingRank later = Rank("a", 1, 9);
  later.set_bytes_done(10);
  ASSERT_TRUE(ranks.Report(later, kStart + seconds(1)).ok());
  const auto list = ranks.List({}, kStart + seconds(1));
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[0].pid(), 10u);
  EXPECT_EQ(list[1].bytes_done(), 10u);
  EXPECT_EQ(list[2].host(), "b");
}

// Each container has a process 1, and some share their host's name.
TEST(LoadingRanks, OfOneHostAndPidAreDifferentRanks) {
  CordonedHosts cordoned;
  LoadingRanks ranks{kSilenceMax, cordoned};
  for (const uint32_t rank : {0, 1}) {
    for (const char* gang : {"x", "y"}) {
      v1::LoadingRank loading = Rank("a", rank, 1);
      loading.set_gang_id(gang);
      ASSERT_TRUE(ranks.Report(loading, kStart).ok());
    }
  }
  EXPECT_EQ(ranks.List({}, kStart).size(), 4u);
}

TEST(LoadingRanks, SayWhetherTheyGetOn) {
  CordonedHosts cordoned;
  LoadingRanks ranks{kSilenceMax, cordoned};
  v1::LoadingRank rank = Rank("a", 0, 1);
  rank.set_bytes_done(0);
  EXPECT_FALSE(ranks.Report(rank, kStart)->moved);
  for (const uint64_t bytes : {3, 7}) {
    rank.set_bytes_done(bytes);
    EXPECT_TRUE(ranks.Report(rank, kStart)->moved);
    EXPECT_FALSE(ranks.Report(rank, kStart)->moved);
  }
  EXPECT_TRUE(ranks.Report(Rank("a", 0, 2), kStart)->moved) << "started anew";
}

TEST(LoadingRanks, AreToldThatAnotherOneOfTheirGangIsSilent) {
  CordonedHosts cordoned;
  LoadingRanks ranks{kSilenceMax, cordoned};
  const auto lost = [&](uint32_t rank, const std::string& gang, seconds when) {
    v1::LoadingRank loading = Rank("host", rank, 100 + rank);
    loading.set_gang_id(gang);
    return ranks.Report(loading, kStart + when)->lost;
  };
  EXPECT_EQ(lost(1, "g", seconds(0)), "");
  EXPECT_EQ(lost(3, "other", seconds(0)), "");
  for (int s = 0; s <= 10; ++s) EXPECT_EQ(lost(0, "g", seconds(s)), "");
  const std::string why =
      "rank 1 (host), pid 101, has been silent for 11.0 s while it loaded: it has ended, or its "
      "host or network is gone";
  EXPECT_EQ(lost(0, "g", seconds(11)), why);
  EXPECT_EQ(lost(3, "other", seconds(11)), "");
  // Also one that is back, and much later.
  EXPECT_EQ(lost(1, "g", seconds(12)), why);
  EXPECT_EQ(lost(1, "g", seconds(900)), why);
  EXPECT_EQ(lost(1, "g-2", seconds(900)), "");
}

TEST(LoadingRanks, AreNotLostWhileNobodyWasHeard) {
  CordonedHosts cordoned;
  LoadingRanks ranks{kSilenceMax, cordoned};
  const auto lost = [&](uint32_t rank, int s) {
    v1::LoadingRank loading = Rank("host", rank, 100 + rank);
    loading.set_gang_id("g");
    return ranks.Report(loading, kStart + seconds(s))->lost;
  };
  // The coordinator stands still from 3 to 15.
  for (int s = 0; s <= 3; ++s) EXPECT_EQ(lost(0, s) + lost(1, s), "");
  EXPECT_EQ(lost(0, 15) + lost(1, 15), "");
  // And from 15 to 30, and this time one rank does not come back.
  for (int s = 30; s <= 40; ++s) EXPECT_EQ(lost(0, s), "");
  EXPECT_NE(lost(0, 41), "");
}

TEST(LoadingRanks, EndWhereOneIsOnACordonedHost) {
  CordonedHosts cordoned;
  LoadingRanks ranks{kSilenceMax, cordoned};
  const auto lost = [&](const std::string& host, uint32_t rank, const std::string& gang) {
    v1::LoadingRank loading = Rank(host, rank, 100 + rank);
    loading.set_gang_id(gang);
    return ranks.Report(loading, kStart)->lost;
  };
  EXPECT_EQ(lost("a", 0, "g") + lost("b", 1, "g"), "");
  ASSERT_TRUE(cordoned.Cordon("b", true).ok());
  const std::string why = "host b is drained: its workers may join after `trireme uncordon b`";
  EXPECT_EQ(lost("a", 0, "g"), why);
  EXPECT_EQ(lost("b", 1, "g"), why);
  EXPECT_EQ(lost("a", 2, "other"), "");
  ASSERT_TRUE(cordoned.Uncordon("b").ok());
  EXPECT_EQ(lost("b", 1, "next"), "");
}

TEST(LoadingRanks, AreForgottenWhenTheyServeOrFallSilent) {
  CordonedHosts cordoned;
  LoadingRanks ranks{kSilenceMax, cordoned};
  ASSERT_TRUE(ranks.Report(Rank("a", 0, 1), kStart).ok());
  ASSERT_TRUE(ranks.Report(Rank("a", 1, 2), kStart).ok());
  v1::ListRanksResponse serving;
  v1::RankInfo& info = *serving.add_gangs()->add_ranks();
  info.set_host("a");
  info.set_pid(2);
  info.set_rank(1);
  EXPECT_EQ(ranks.List(serving, kStart + seconds(5)).size(), 1u);
  EXPECT_TRUE(ranks.List({}, kStart + seconds(6)).empty());
}

TEST(LoadingRanks, WhatNoRankSaysIsRefused) {
  CordonedHosts cordoned;
  LoadingRanks ranks{kSilenceMax, cordoned};
  v1::LoadingRank more = Rank("a", 0, 1);
  more.set_bytes_done(11);
  v1::LoadingRank fast = Rank("a", 0, 1);
  fast.set_bytes_per_s(std::nan(""));
  for (const v1::LoadingRank& bad :
       {Rank("", 0, 1), Rank(std::string(256, 'h'), 0, 1), Rank("a\nb", 0, 1), more, fast}) {
    EXPECT_EQ(ranks.Report(bad, kStart).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(ranks.List({}, kStart).empty());
}

}  // namespace
}  // namespace trireme
