#include <gtest/gtest.h>

#include <thread>

#include "tests/parallel/communicator_cases.h"

namespace trireme {
namespace {

class LoopbackTest : public testing::TestWithParam<int> {};

TEST_P(LoopbackTest, Conforms) {
  auto world = MakeLoopbackCommunicators(GetParam());
  std::vector<std::thread> threads;
  for (auto& communicator : world) {
    threads.emplace_back([own = std::move(communicator)] { CheckCommunicator(*own); });
  }
  for (std::thread& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(Ranks, LoopbackTest, testing::Values(1, 2, 3, 4, 8));

TEST(Loopback, APeerThatLeavesWakesTheOthers) {
  auto world = MakeLoopbackCommunicators(3);
  absl::Status received, gathered;
  std::thread receiver([own = std::move(world[0]), &received] {
    std::byte byte{};
    received = own->Recv({&byte, 1}, 2);
  });
  std::thread gatherer([own = std::move(world[1]), &gathered] {
    std::vector<std::byte> all(3);
    gathered = own->AllGather(std::span(all).first(1), all);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  world[2].reset();
  receiver.join();
  gatherer.join();
  EXPECT_TRUE(absl::IsUnavailable(received)) << received;
  EXPECT_TRUE(absl::IsUnavailable(gathered)) << gathered;
}

}  // namespace
}  // namespace trireme
