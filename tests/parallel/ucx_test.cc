// Ranks over UCX, as threads. Ranks that are killed: tests/distributed.

#include "parallel/backends/ucx.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "tests/parallel/communicator_cases.h"

namespace trireme {
namespace {

using Body = std::function<void(std::unique_ptr<Communicator>)>;

// Runs `body` on a thread for each rank, which owns its communicator.
void RunRanks(int size, const UcxOptions& options, const Body& body) {
  std::vector<std::unique_ptr<UcxPort>> ports;
  std::vector<std::string> addresses;
  for (int rank = 0; rank < size; ++rank) {
    auto port = OpenUcxPort(options);
    ASSERT_TRUE(port.ok()) << port.status();
    addresses.push_back((*port)->address());
    ports.push_back(*std::move(port));
  }
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      auto world = ports[static_cast<size_t>(rank)]->Connect(rank, addresses);
      ASSERT_TRUE(world.ok()) << world.status();
      EXPECT_EQ((*world)->rank(), rank);
      EXPECT_EQ((*world)->size(), size);
      body(*std::move(world));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class UcxTest : public testing::TestWithParam<int> {};

TEST_P(UcxTest, Conforms) {
  RunRanks(GetParam(), {}, [](std::unique_ptr<Communicator> world) { CheckCommunicator(*world); });
}

TEST_P(UcxTest, ConformsOnOneInterface) {
  RunRanks(GetParam(), {.net_interface = "lo"},
           [](std::unique_ptr<Communicator> world) { CheckCommunicator(*world); });
}

TEST_P(UcxTest, LeavingAfterTheLastCollectiveIsNoError) {
  for (int round = 0; round < 10; ++round) {
    RunRanks(GetParam(), {}, [](std::unique_ptr<Communicator> world) {
      const std::byte mine{1};
      std::vector<std::byte> all(static_cast<size_t>(world->size()));
      EXPECT_TRUE(world->AllGather({&mine, 1}, all).ok());
      EXPECT_TRUE(world->Barrier().ok());
      EXPECT_TRUE(world->Broadcast(all, world->size() - 1).ok());
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, UcxTest, testing::Values(1, 2, 3, 4));

TEST(Ucx, APeerThatLeavesWakesTheOthers) {
  for (int round = 0; round < 8; ++round) {
    const int leaver = round % 4;
    RunRanks(4, {}, [&](std::unique_ptr<Communicator> world) {
      std::vector<float> data(static_cast<size_t>(round) * 7000);
      absl::Status status;
      for (int step = 0; status.ok() && !(world->rank() == leaver && step == round); ++step) {
        status = step % 3 == 2 ? world->Barrier() : world->AllReduceSum(data);
      }
      EXPECT_EQ(status.ok(), world->rank() == leaver) << status;
      EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
    });
  }
}

TEST(Ucx, AGroupOutlivesTheWorldItWasSplitFrom) {
  RunRanks(4, {}, [](std::unique_ptr<Communicator> world) {
    auto group = world->Split(world->rank() / 2, 0);
    ASSERT_TRUE(group.ok()) << group.status();
    world.reset();
    CheckCommunicator(**group);
  });
}

TEST(Ucx, GroupsDoNotMixUpTheirMessages) {
  RunRanks(2, {}, [](std::unique_ptr<Communicator> world) {
    auto first = world->Split(0, world->rank());
    auto second = world->Split(0, world->rank());
    ASSERT_TRUE(first.ok() && second.ok());
    const int peer = 1 - world->rank();
    int sent[] = {1, 2, 3};
    int got[] = {0, 0, 0};
    Communicator* groups[] = {world.get(), first->get(), second->get()};
    for (int i : {0, 1, 2}) {
      ASSERT_TRUE(groups[i]->Post(std::as_bytes(std::span(&sent[i], 1)), peer).ok());
    }
    for (int i : {2, 0, 1}) {
      ASSERT_TRUE(groups[i]->Take(std::as_writable_bytes(std::span(&got[i], 1)), peer).ok());
    }
    for (int i : {0, 1, 2}) EXPECT_EQ(got[i], sent[i]);
  });
}

TEST(Ucx, SizesThatDisagreeAreAnError) {
  for (const size_t extra : {0, 2}) {
    RunRanks(2, {}, [&](std::unique_ptr<Communicator> world) {
      std::vector<std::byte> bytes(world->rank() == 0 ? 4 : 3 + extra);
      if (world->rank() == 0) {
        EXPECT_TRUE(world->Post(bytes, 1).ok());
        EXPECT_TRUE(absl::IsUnavailable(world->Take(bytes, 1)));
      } else {
        const absl::Status status = world->Take(bytes, 0);
        EXPECT_TRUE(absl::IsInternal(status)) << status;
      }
    });
  }
}

TEST(Ucx, ASilentPeerIsAnErrorInBoundedTime) {
  RunRanks(2, {.wait_timeout = std::chrono::milliseconds(300)},
           [](std::unique_ptr<Communicator> world) {
             if (world->rank() == 1) {
               std::this_thread::sleep_for(std::chrono::seconds(1));
               return;
             }
             std::byte byte{};
             const absl::Status status = world->Recv({&byte, 1}, 1);
             EXPECT_TRUE(absl::IsUnavailable(status)) << status;
             EXPECT_NE(status.message().find("rank 1 was silent"), std::string::npos) << status;
           });
}

TEST(Ucx, RefusesRanksThatAreNoPeers) {
  for (const int peer : {-1, 0, 2}) {
    RunRanks(2, {}, [peer](std::unique_ptr<Communicator> world) {
      if (world->rank() != 0) return;
      std::byte byte{};
      EXPECT_TRUE(absl::IsInvalidArgument(world->Send({&byte, 1}, peer)));
      EXPECT_TRUE(absl::IsInvalidArgument(world->Take({&byte, 1}, peer)));
    });
  }
}

TEST(Ucx, NamesAnInterfaceThatIsNotThere) {
  const auto port = OpenUcxPort({.net_interface = "nowhere0"});
  EXPECT_TRUE(absl::IsInvalidArgument(port.status())) << port.status();
  EXPECT_NE(port.status().message().find("nowhere0"), std::string::npos);
}

TEST(Ucx, RequiredRdmaIsNeverTcp) {
  const auto port = OpenUcxPort({.net_interface = "lo", .require_rdma = true});
  EXPECT_TRUE(absl::IsFailedPrecondition(port.status())) << port.status();
}

}  // namespace
}  // namespace trireme
