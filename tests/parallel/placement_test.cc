#include "parallel/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<RankPlace> OnHosts(const std::vector<std::string>& hosts) {
  std::vector<RankPlace> places;
  for (const std::string& host : hosts) places.push_back({.host = host});
  return places;
}

std::vector<RankPlace> InOrder(const std::vector<RankPlace>& places,
                               const std::vector<int>& order) {
  std::vector<RankPlace> ranks;
  for (const int process : order) ranks.push_back(places[static_cast<size_t>(process)]);
  return ranks;
}

TEST(PlacementTest, NeighboursOnTheirHostsStay) {
  const auto places = OnHosts({"a", "a", "b", "b"});
  const ParallelLayout layout{.tp = 2, .pp = 2};
  EXPECT_THAT(OrderByTopology(places, layout), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(DescribePlacement(places, layout), "stage 0: ranks 0-1 on a; stage 1: ranks 2-3 on b");
  EXPECT_EQ(WarnOfPlacement(places, layout), "");
}

// mpirun --map-by node.
TEST(PlacementTest, RanksDealtOutRoundRobinAreBroughtTogether) {
  const auto places = OnHosts({"b", "a", "b", "a", "b", "a", "b", "a"});
  EXPECT_THAT(OrderByTopology(places, {.tp = 2, .pp = 4}), ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
  EXPECT_THAT(OrderByTopology(places, {.tp = 4, .pp = 2}), ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
  EXPECT_THAT(OrderByTopology(places, {.tp = 1, .pp = 8}), ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
}

TEST(PlacementTest, WhatUnevenHostsHaveLeftOverIsPairedAtTheEnd) {
  const auto places = OnHosts({"a", "b", "a", "a"});
  const ParallelLayout layout{.tp = 2, .pp = 2};
  const std::vector<int> order = OrderByTopology(places, layout);
  EXPECT_THAT(order, ElementsAre(0, 2, 3, 1));
  const auto ranks = InOrder(places, order);
  EXPECT_EQ(DescribePlacement(ranks, layout),
            "stage 0: ranks 0-1 on a; stage 1: rank 2 on a, rank 3 on b");
  EXPECT_THAT(WarnOfPlacement(ranks, layout),
              HasSubstr("over the network in stage 1 (rank 2 on a, rank 3 on b): two all-reduces"));
}

TEST(PlacementTest, AGroupThatNoHostHoldsCrossesHosts) {
  const auto places = OnHosts({"a", "b", "a", "b"});
  const ParallelLayout layout{.tp = 4, .pp = 1};
  const std::vector<int> order = OrderByTopology(places, layout);
  EXPECT_THAT(order, ElementsAre(0, 2, 1, 3));  // the first sums of the tree stay on a host
  EXPECT_EQ(DescribePlacement(InOrder(places, order), layout),
            "stage 0: ranks 0-1 on a, ranks 2-3 on b");
  EXPECT_THAT(WarnOfPlacement(InOrder(places, order), layout), HasSubstr("stage 0"));
}

TEST(PlacementTest, GroupsStayInANumaNode) {
  std::vector<RankPlace> places;
  for (int i = 0; i < 8; ++i) places.push_back({.host = "a", .numa_node = i % 2});
  EXPECT_THAT(OrderByTopology(places, {.tp = 4, .pp = 2}), ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
  EXPECT_THAT(OrderByTopology(places, {.tp = 8, .pp = 1}), ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
}

// Three and five on the nodes: one group of two has to cross, and not three.
TEST(PlacementTest, OnlyWhatIsLeftOverCrossesNumaNodes) {
  std::vector<RankPlace> places;
  for (const int node : {0, 0, 0, 1, 1, 1, 1, 1})
    places.push_back({.host = "a", .numa_node = node});
  EXPECT_THAT(OrderByTopology(places, {.tp = 2, .pp = 4}), ElementsAre(0, 1, 3, 4, 5, 6, 2, 7));
}

// Two hosts of four GPUs each, of which 0 and 2, and 1 and 3, are bridged, across NUMA nodes.
std::vector<RankPlace> NvlinkPairs() {
  std::vector<RankPlace> places;
  for (const char* host : {"a", "b"}) {
    for (int gpu = 0; gpu < 4; ++gpu) {
      const auto bus_id = [](int number) { return "0000:0" + std::to_string(number) + ":00.0"; };
      places.push_back({.host = host,
                        .numa_node = gpu / 2,
                        .gpu = bus_id(gpu),
                        .nvlinks = {bus_id((gpu + 2) % 4)}});
    }
  }
  return places;
}

TEST(PlacementTest, GroupsStayOnNvlinkPairs) {
  EXPECT_THAT(OrderByTopology(NvlinkPairs(), {.tp = 2, .pp = 4}),
              ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
}

// Bus ids repeat on other hosts.
TEST(PlacementTest, AGroupOfTwoPairsStaysOnItsHost) {
  EXPECT_THAT(OrderByTopology(NvlinkPairs(), {.tp = 4, .pp = 2}),
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_EQ(WarnOfPlacement(InOrder(NvlinkPairs(), {0, 1, 2, 3, 4, 5, 6, 7}), {.tp = 4, .pp = 2}),
            "");
}

// All linked to all by switches: then the NUMA nodes decide.
TEST(PlacementTest, WithNvswitchGroupsStayInANumaNode) {
  std::vector<RankPlace> places;
  for (int gpu = 0; gpu < 8; ++gpu) {
    RankPlace place{.host = "a", .numa_node = gpu % 2, .gpu = std::to_string(gpu)};
    for (int peer = 0; peer < 8; ++peer) {
      if (peer != gpu) place.nvlinks.push_back(std::to_string(peer));
    }
    places.push_back(std::move(place));
  }
  EXPECT_THAT(OrderByTopology(places, {.tp = 4, .pp = 2}), ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
}

// Whatever the hosts, nodes and links: each process is one rank, and no more groups cross hosts
// than what is left over on them makes necessary.
TEST(PlacementTest, EveryProcessIsARankAndGroupsCrossHostsOnlyWhereTheyMust) {
  unsigned state = 1;
  const auto random = [&state](unsigned below) {
    state = state * 1664525u + 1013904223u;
    return static_cast<int>((state >> 16) % below);
  };
  for (int round = 0; round < 300; ++round) {
    const ParallelLayout layout{.tp = 1 << random(4), .pp = 1 + random(6)};
    std::vector<RankPlace> places;
    for (int i = 0; i < layout.world_size(); ++i) {
      RankPlace place{.host = std::string(1, static_cast<char>('a' + random(4))),
                      .numa_node = random(3) - 1,
                      .gpu = std::to_string(random(8))};
      for (int link = 0; link < 3; ++link) place.nvlinks.push_back(std::to_string(random(8)));
      places.push_back(std::move(place));
    }
    const std::vector<int> order = OrderByTopology(places, layout);
    std::vector<int> sorted = order;
    std::sort(sorted.begin(), sorted.end());
    for (int i = 0; i < layout.world_size(); ++i) ASSERT_EQ(sorted[static_cast<size_t>(i)], i);
    int whole = 0, inside = 0;
    for (const char host : {'a', 'b', 'c', 'd'}) {
      whole +=
          static_cast<int>(std::count_if(places.begin(), places.end(),
                                         [&](const RankPlace& p) { return p.host[0] == host; })) /
          layout.tp;
    }
    const auto ranks = InOrder(places, order);
    for (auto first = ranks.begin(); first != ranks.end(); first += layout.tp) {
      inside += std::all_of(first, first + layout.tp,
                            [&](const RankPlace& place) { return place.host == first->host; });
    }
    ASSERT_GE(inside, whole) << "round " << round;
  }
}

}  // namespace
}  // namespace trireme
