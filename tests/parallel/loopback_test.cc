#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "tests/parallel/communicator_cases.h"

namespace trireme {
namespace {

using Communicators = std::vector<std::unique_ptr<Communicator>>;

// Runs `body` on a thread for each rank; the thread destroys its communicator.
void RunRanks(Communicators world, const std::function<void(Communicator&)>& body) {
  std::vector<std::thread> threads;
  for (auto& communicator : world) {
    threads.emplace_back([own = std::move(communicator), &body] { body(*own); });
  }
  for (std::thread& thread : threads) thread.join();
}

class LoopbackTest : public testing::TestWithParam<int> {};

TEST_P(LoopbackTest, Conforms) {
  RunRanks(MakeLoopbackCommunicators(GetParam()), CheckCommunicator);
}

// The last ranks out must not take the leave of the first for a failure of what has arrived.
TEST_P(LoopbackTest, LeavingAfterTheLastCollectiveIsNoError) {
  for (int round = 0; round < 300; ++round) {
    RunRanks(MakeLoopbackCommunicators(GetParam()), [](Communicator& world) {
      const std::byte mine{1};
      std::vector<std::byte> all(static_cast<size_t>(world.size()));
      EXPECT_TRUE(world.AllGather({&mine, 1}, all).ok());
      EXPECT_TRUE(world.Barrier().ok());
      EXPECT_TRUE(world.Broadcast(all, world.size() - 1).ok());
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, LoopbackTest, testing::Values(1, 2, 3, 4, 8));

// One rank leaves at any moment; every other must come out of whatever it waits in.
TEST(Loopback, APeerThatLeavesWakesTheOthers) {
  for (int round = 0; round < 200; ++round) {
    const int leaver = round % 4;
    RunRanks(MakeLoopbackCommunicators(4), [&](Communicator& world) {
      std::vector<float> data(static_cast<size_t>(round) * 7);
      absl::Status status;
      for (int step = 0; status.ok() && !(world.rank() == leaver && step == round / 4); ++step) {
        status = step % 3 == 2 ? world.Barrier() : world.AllReduceSum(data);
      }
      EXPECT_EQ(status.ok(), world.rank() == leaver) << status;
      EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
    });
  }
}

TEST(Loopback, APeerThatLeavesEndsASplit) {
  RunRanks(MakeLoopbackCommunicators(4), [](Communicator& world) {
    if (world.rank() == 2) return;
    const auto group = world.Split(0, world.rank());
    EXPECT_TRUE(absl::IsUnavailable(group.status())) << group.status();
  });
}

TEST(Loopback, AGroupOutlivesTheWorldItWasSplitFrom) {
  auto world = MakeLoopbackCommunicators(4);
  std::vector<std::thread> threads;
  for (auto& communicator : world) {
    threads.emplace_back([own = std::move(communicator)]() mutable {
      auto group = own->Split(own->rank() / 2, 0);
      ASSERT_TRUE(group.ok()) << group.status();
      own.reset();
      CheckCommunicator(**group);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Loopback, SizesThatDisagreeAreAnErrorOnBothSides) {
  RunRanks(MakeLoopbackCommunicators(2), [](Communicator& world) {
    std::vector<std::byte> bytes(4 + static_cast<size_t>(world.rank()));
    const absl::Status status = world.rank() == 0 ? world.Send(bytes, 1) : world.Recv(bytes, 0);
    EXPECT_EQ(status.code(),
              world.rank() == 0 ? absl::StatusCode::kUnavailable : absl::StatusCode::kInternal)
        << status;
  });
}

TEST(Loopback, WhatWasPostedBeforeLeavingArrives) {
  RunRanks(MakeLoopbackCommunicators(2), [](Communicator& world) {
    int value = 5;
    if (world.rank() == 0) {
      EXPECT_TRUE(world.Post(std::as_bytes(std::span(&value, 1)), 1).ok());
      return;
    }
    value = 0;
    EXPECT_TRUE(world.Take(std::as_writable_bytes(std::span(&value, 1)), 0).ok());
    EXPECT_EQ(value, 5);
    const absl::Status status = world.Take(std::as_writable_bytes(std::span(&value, 1)), 0);
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_TRUE(absl::IsUnavailable(world.Post({}, 0)));
  });
}

TEST(Loopback, PostedSizesThatDisagreeAreAnError) {
  RunRanks(MakeLoopbackCommunicators(2), [](Communicator& world) {
    std::vector<std::byte> bytes(4 + static_cast<size_t>(world.rank()));
    if (world.rank() == 0) {
      EXPECT_TRUE(world.Post(bytes, 1).ok());
      EXPECT_TRUE(absl::IsUnavailable(world.Take(bytes, 1)));
    } else {
      const absl::Status status = world.Take(bytes, 0);
      EXPECT_TRUE(absl::IsInternal(status)) << status;
    }
  });
}

TEST(Loopback, RefusesRanksThatAreNoPeers) {
  for (const int peer : {-1, 0, 2}) {
    const auto world = MakeLoopbackCommunicators(2);
    std::byte byte{};
    EXPECT_TRUE(absl::IsInvalidArgument(world[0]->Send({&byte, 1}, peer)));
    EXPECT_TRUE(absl::IsInvalidArgument(world[0]->Recv({&byte, 1}, peer)));
    EXPECT_TRUE(absl::IsInvalidArgument(world[0]->SendRecv({}, {}, peer)));
    EXPECT_TRUE(absl::IsInvalidArgument(world[0]->Post({&byte, 1}, peer)));
    EXPECT_TRUE(absl::IsInvalidArgument(world[0]->Take({&byte, 1}, peer)));
  }
}

}  // namespace
}  // namespace trireme
