#include "parallel/collective_watch.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "tests/parallel/communicator_cases.h"

namespace trireme {
namespace {

std::vector<std::unique_ptr<Communicator>> Watched(std::vector<CollectiveWatch>& watches) {
  std::vector<std::unique_ptr<Communicator>> world =
      MakeLoopbackCommunicators(static_cast<int>(watches.size()));
  for (size_t i = 0; i < watches.size(); ++i) {
    world[i] = WatchCollectives(std::move(world[i]), watches[i]);
  }
  return world;
}

TEST(CollectiveWatch, AWatchedCommunicatorConforms) {
  std::vector<CollectiveWatch> watches(4);
  std::vector<std::thread> ranks;
  for (auto& communicator : Watched(watches)) {
    ranks.emplace_back([own = std::move(communicator)] { CheckCommunicator(*own); });
  }
  for (std::thread& rank : ranks) rank.join();
  for (const CollectiveWatch& watch : watches) {
    EXPECT_GT(watch.state().done, 0u);
    EXPECT_FALSE(watch.state().current.has_value());
  }
}

// What a rank that waits is seen to wait for, while its peers are somewhere else.
TEST(CollectiveWatch, NamesWhatARankWaitsForByRanksOfTheWorld) {
  std::vector<CollectiveWatch> watches(4);
  const auto seen = [&](size_t rank, const std::string& what, const std::vector<int>& peers,
                        uint64_t bytes) {
    CollectiveWatch::Exchange last;
    for (int i = 0; i < 10'000 && last.what != what; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      last = watches[rank].state().current.value_or(CollectiveWatch::Exchange{});
    }
    EXPECT_EQ(last.what, what);
    EXPECT_EQ(last.ranks, peers);
    EXPECT_EQ(last.bytes, bytes);
  };
  std::vector<std::thread> ranks;
  for (auto& communicator : Watched(watches)) {
    ranks.emplace_back([&, own = std::move(communicator)] {
      const auto group = *own->Split(own->rank() / 2, own->rank());
      if (own->rank() == 3) seen(2, "all-reduce", {3}, 16);
      std::vector<float> data(4);
      if (own->rank() >= 2) {
        EXPECT_TRUE(group->AllReduceSum(data).ok());
      }
      if (own->rank() == 0) seen(1, "barrier", {0, 2, 3}, 0);
      EXPECT_TRUE(own->Barrier().ok());
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

}  // namespace
}  // namespace trireme
