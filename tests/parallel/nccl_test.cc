// NcclCommunicator against an NCCL that fails as it is told.

#include "parallel/backends/nccl.h"

#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/parallel/device_communicator_cases.h"
#include "tests/parallel/fake_nccl.h"

namespace trireme {
namespace {

using std::chrono::milliseconds;

// A rank's machine, GPU and NCCL, and a clock that moves when it is read.
struct FakeRank {
  FakeRank(Communicator* host_wires, Communicator* nccl_wires)
      : host(*host_wires), nccl(nccl_wires, &device) {
    place = {.host = absl::StrCat("host-", host.rank()),
             .machine_id = absl::StrCat("machine-", host.rank()),
             .pci_bus_id = "0000:1b:00.0",
             .stream = &device};
    options.close_timeout = std::chrono::minutes(10);
    options.now = [this] { return std::chrono::steady_clock::time_point(time += milliseconds(1)); };
    options.sleep = [this](std::chrono::microseconds) {
      ++sleeps;
      time += milliseconds(20);
      std::this_thread::sleep_for(std::chrono::microseconds(1));  // threads get on meanwhile
    };
  }

  absl::StatusOr<std::unique_ptr<DeviceCommunicator>> Make() {
    return MakeNcclCommunicator(nccl.api(), place, options, host);
  }

  Communicator& host;
  FakeDevice device;
  FakeNccl nccl;
  NcclPlace place;
  NcclOptions options;
  milliseconds time{0};
  int sleeps = 0;

  static constexpr milliseconds kStep{30};  // more than the clock moves between two polls
};

void RunRanks(int ranks, const std::function<void(FakeRank&)>& body) {
  auto hosts = MakeLoopbackCommunicators(ranks);
  auto wires = MakeLoopbackCommunicators(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([host = std::move(hosts[rank]), wire = std::move(wires[rank]), &body] {
      FakeRank own(host.get(), wire.get());
      body(own);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void ExpectMentions(const absl::Status& status, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_TRUE(absl::StrContains(std::string(status.message()), part)) << part << " in " << status;
  }
}

const std::vector<std::string> kAdvice = {"NCCL_DEBUG=INFO", "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA"};

class NcclTest : public testing::TestWithParam<int> {};

TEST_P(NcclTest, Conforms) {
  std::mutex mutex;
  std::vector<NcclUniqueId> ids;
  RunRanks(GetParam(), [&](FakeRank& rank) {
    {
      const auto world = rank.Make();
      ASSERT_TRUE(world.ok()) << world.status();
      EXPECT_EQ((*world)->name(), "nccl");
      EXPECT_EQ((*world)->rank(), rank.host.rank());
      EXPECT_EQ((*world)->size(), rank.host.size());
      EXPECT_TRUE((*world)->capturable());
      CheckDeviceCommunicator(**world, rank.device);
      EXPECT_EQ(rank.nccl.stream, rank.place.stream);
      EXPECT_EQ(rank.nccl.calls.front(), "AllReduce 1");
    }
    EXPECT_EQ(rank.nccl.finalized, 1);
    EXPECT_EQ(rank.nccl.destroyed, 1);
    EXPECT_EQ(rank.nccl.aborted, 0);
    const std::lock_guard lock(mutex);
    ids.insert(ids.end(), rank.nccl.ids.begin(), rank.nccl.ids.end());
  });
  ASSERT_EQ(ids.size(), static_cast<size_t>(GetParam()));
  for (const NcclUniqueId& id : ids) EXPECT_EQ(id.bytes, ids[0].bytes);
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclTest, testing::Values(1, 2, 4));

TEST(Nccl, CallsThatSucceedAtOnceAreNotPolled) {
  RunRanks(2, [](FakeRank& rank) {
    const auto world = rank.Make();
    ASSERT_TRUE(world.ok()) << world.status();
    rank.nccl.call_result = NcclResult::kSuccess;
    rank.nccl.polls = 0;
    rank.nccl.asked = 0;
    EXPECT_TRUE((*world)->AllReduceSum(rank.device.Upload(std::vector<float>(4))).ok());
    EXPECT_EQ(rank.nccl.asked, 0);
  });
}

TEST(Nccl, PeersThatDoNotComeAreUnavailable) {
  RunRanks(2, [](FakeRank& rank) {
    rank.nccl.state = NcclResult::kInProgress;
    rank.options.connect_timeout = milliseconds(5000);
    const absl::Status status = rank.Make().status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    ExpectMentions(status, {absl::StrCat("rank ", rank.host.rank(), " of 2 on host-"),
                            "connecting the ranks", "no answer from the peers after 5000 ms"});
    ExpectMentions(status, kAdvice);
    EXPECT_EQ(rank.nccl.aborted, 1);
    EXPECT_GT(rank.sleeps, 100);
    EXPECT_GE(rank.time, milliseconds(5000));
  });
}

// The ranks that only wait learn why.
TEST(Nccl, AllRanksGetTheReasonOfTheOneThatFailed) {
  RunRanks(3, [](FakeRank& rank) {
    rank.nccl.state = NcclResult::kInProgress;
    if (rank.host.rank() == 1) {
      rank.nccl.init_result = NcclResult::kSystemError;
      rank.nccl.last_error = "no socket interface found";
    }
    const absl::Status status = rank.Make().status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    ExpectMentions(status, {"rank 1 of 3 on host-1", "result 2: no socket interface found"});
    EXPECT_EQ(rank.nccl.aborted, 1);
    EXPECT_EQ(rank.nccl.destroyed, 0);
  });
}

// A rank that connected does not keep a communicator whose peers gave up.
TEST(Nccl, APeerThatFailsToConnectFailsTheRanksThatDid) {
  RunRanks(2, [](FakeRank& rank) {
    if (rank.host.rank() == 1) rank.nccl.state = NcclResult::kInternalError;
    const absl::Status status = rank.Make().status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    ExpectMentions(status, {"rank 1 of 2"});
    EXPECT_EQ(rank.nccl.aborted, 1);
    EXPECT_EQ(rank.nccl.finalized, 0);
  });
}

TEST(Nccl, AnNcclThatDoesNotStartFailsAllRanks) {
  RunRanks(2, [](FakeRank& rank) {
    rank.nccl.unique_id_result = NcclResult::kSystemError;
    const absl::Status status = rank.Make().status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    ExpectMentions(status, {"rank 0 on host-0", "starting NCCL", "result 2"});
    EXPECT_TRUE(rank.nccl.ids.empty());
  });
}

TEST(Nccl, VersionsThatDifferAreNamed) {
  RunRanks(3, [](FakeRank& rank) {
    if (rank.host.rank() == 2) rank.nccl.version = 22703;
    const absl::Status status = rank.Make().status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    ExpectMentions(status, {"rank 0 on host-0 has NCCL 2.28.9", "rank 2 on host-2 has 2.27.3"});
    EXPECT_TRUE(rank.nccl.ids.empty());
  });
}

// In two containers of a machine the hosts' names differ, the GPU does not.
TEST(Nccl, RanksThatShareAGpuAreNamed) {
  RunRanks(4, [](FakeRank& rank) {
    if (rank.host.rank() == 3) rank.place.machine_id = "machine-1";
    const absl::Status status = rank.Make().status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    ExpectMentions(status, {"rank 1 on host-1 and rank 3 on host-3", "0000:1b:00.0"});
    EXPECT_TRUE(rank.nccl.ids.empty());
  });
}

TEST(Nccl, AMachinesGpusAreToldApart) {
  RunRanks(2, [](FakeRank& rank) {
    rank.place.machine_id = "machine-0";
    rank.place.pci_bus_id = absl::StrCat("0000:", rank.host.rank(), "b:00.0");
    EXPECT_TRUE(rank.Make().ok());
  });
}

// An error while a collective is in flight: found by Check, by Wait, or by the next call.
TEST(Nccl, AsyncErrorsNameTheCollective) {
  for (const std::string how : {"Check", "Wait", "call"}) {
    RunRanks(2, [&](FakeRank& rank) {
      {
        const auto world = rank.Make();
        ASSERT_TRUE(world.ok()) << world.status();
        const auto data = rank.device.Upload(std::vector<float>(1024));
        EXPECT_TRUE((*world)->AllReduceSum(data).ok());
        EXPECT_TRUE((*world)->AllReduceSum(data).ok());
        EXPECT_TRUE((*world)->Check().ok());
        rank.nccl.state = NcclResult::kRemoteError;
        rank.nccl.last_error = "connection closed by 10.0.0.2";
        const auto never = []() -> absl::StatusOr<bool> { return false; };
        const absl::Status status = how == "Check"  ? (*world)->Check()
                                    : how == "Wait" ? (*world)->Wait(never)
                                                    : (*world)->AllReduceSum(data);
        EXPECT_TRUE(absl::IsUnavailable(status)) << status;
        ExpectMentions(status, {absl::StrCat("rank ", rank.host.rank(), " of 2 on host-"),
                                absl::StrCat("call ", how == "call" ? 3 : 2, ", AllReduceSum"),
                                "4096 bytes", "result 6: connection closed by 10.0.0.2"});
        ExpectMentions(status, kAdvice);
        rank.nccl.AwaitAborts(1);
        // NCCL is asked no more (FakeNccl expects a living communicator).
        EXPECT_EQ((*world)->AllReduceSum(data), status);
        EXPECT_EQ((*world)->AllGather({}, {}), status);
        EXPECT_EQ((*world)->Send({}, 7), status);
        EXPECT_EQ((*world)->Recv({}, 7), status);
        EXPECT_EQ((*world)->Check(), status);
        EXPECT_EQ((*world)->Wait(never), status);
      }
      EXPECT_EQ(rank.nccl.aborted, 1);
      EXPECT_EQ(rank.nccl.finalized, 0);
      EXPECT_EQ(rank.nccl.destroyed, 0);
    });
  }
}

TEST(Nccl, ACallThatFailsAtOnceIsUnavailable) {
  RunRanks(1, [](FakeRank& rank) {
    const auto world = rank.Make();
    ASSERT_TRUE(world.ok()) << world.status();
    rank.nccl.call_result = NcclResult::kUnhandledCudaError;
    const absl::Status status = (*world)->AllReduceSum(rank.device.Allocate<float>(4));
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    ExpectMentions(status, {"call 1, AllReduceSum of 16 bytes", "result 1"});
    rank.nccl.AwaitAborts(1);
  });
}

// A peer that left is an error of the wires for those that go on.
TEST(Nccl, APeerThatAbortsEndsTheOthers) {
  RunRanks(2, [](FakeRank& rank) {
    const auto world = rank.Make();
    ASSERT_TRUE(world.ok()) << world.status();
    if (rank.host.rank() == 1) {
      rank.nccl.state = NcclResult::kInternalError;
      EXPECT_TRUE(absl::IsUnavailable((*world)->Check()));
      return;  // and closes its wires
    }
    const absl::Status status = (*world)->AllReduceSum(rank.device.Allocate<float>(4));
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    ExpectMentions(status, {"rank 0 of 2", "result 6"});
  });
}

TEST(Nccl, WorkThatIsNeverDoneRunsIntoTheDeadline) {
  RunRanks(2, [](FakeRank& rank) {
    rank.options.work_timeout = milliseconds(3000);
    const auto world = rank.Make();
    ASSERT_TRUE(world.ok()) << world.status();
    const auto all = rank.device.Allocate<std::byte>(48);
    EXPECT_TRUE((*world)->AllGather(rank.device.Allocate<std::byte>(24), all).ok());
    const milliseconds start = rank.time;
    const auto never = []() -> absl::StatusOr<bool> { return false; };
    const absl::Status status = (*world)->Wait(never);
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    ExpectMentions(status, {"call 1, AllGather of 24 bytes", "not done after 3000 ms"});
    ExpectMentions(status, kAdvice);
    EXPECT_GE(rank.time - start, milliseconds(3000));
    EXPECT_LT(rank.time - start, milliseconds(3000) + FakeRank::kStep);
    EXPECT_EQ(rank.sleeps, 0);
    rank.nccl.AwaitAborts(1);
  });
}

TEST(Nccl, ACallThatIsNeverEnqueuedRunsIntoTheDeadline) {
  RunRanks(1, [](FakeRank& rank) {
    rank.options.connect_timeout = milliseconds(2000);
    const auto world = rank.Make();
    ASSERT_TRUE(world.ok()) << world.status();
    rank.nccl.polls = 1 << 30;
    const absl::Status status = (*world)->AllReduceSum(rank.device.Allocate<float>(4));
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    ExpectMentions(status, {"call 1, AllReduceSum", "no answer from the peers after 2000 ms"});
    rank.nccl.AwaitAborts(1);
  });
}

TEST(Nccl, AnErrorOfTheDeviceIsReturnedAsItIs) {
  RunRanks(1, [](FakeRank& rank) {
    const auto world = rank.Make();
    ASSERT_TRUE(world.ok()) << world.status();
    const absl::Status error = absl::InternalError("illegal address");
    EXPECT_EQ((*world)->Wait([&]() -> absl::StatusOr<bool> { return error; }), error);
    rank.nccl.AwaitAborts(1);  // so that the peers do not wait
    EXPECT_EQ((*world)->Check(), error);
  });
}

TEST(Nccl, SizesAndRanksThatCannotBeAreInvalid) {
  RunRanks(2, [](FakeRank& rank) {
    const std::vector<std::function<absl::Status(DeviceCommunicator&)>> calls = {
        [&](DeviceCommunicator& world) {
          return world.AllGather(rank.device.Allocate<std::byte>(4),
                                 rank.device.Allocate<std::byte>(7));
        },
        [](DeviceCommunicator& world) { return world.Send({}, 2); },
        [](DeviceCommunicator& world) { return world.Send({}, world.rank()); },
        [](DeviceCommunicator& world) { return world.Recv({}, -1); },
    };
    int aborted = 0;
    for (const auto& call : calls) {
      const auto world = rank.Make();
      ASSERT_TRUE(world.ok()) << world.status();
      const absl::Status status = call(**world);
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      EXPECT_FALSE(absl::StrContains(std::string(status.message()), "NCCL_DEBUG")) << status;
      EXPECT_EQ((*world)->Check(), status);
      rank.nccl.AwaitAborts(++aborted);
      EXPECT_TRUE(rank.nccl.calls.empty());
    }
  });
}

TEST(Nccl, APeerThatDoesNotCloseIsLeftByForce) {
  RunRanks(1, [](FakeRank& rank) {
    rank.options.close_timeout = milliseconds(4000);
    auto world = rank.Make();
    ASSERT_TRUE(world.ok()) << world.status();
    rank.nccl.polls = 1 << 30;
    const milliseconds start = rank.time;
    world->reset();
    EXPECT_GE(rank.time - start, milliseconds(4000));
    EXPECT_LT(rank.time - start, 2 * (milliseconds(4000) + FakeRank::kStep));
    rank.nccl.AwaitAborts(1);
    EXPECT_EQ(rank.nccl.finalized, 1);
    EXPECT_EQ(rank.nccl.destroyed, 0);
  });
}

// NCCL's abort waits for the caller's graphs, which the caller destroys once it has the error.
TEST(Nccl, AnAbortThatWaitsKeepsNobody) {
  RunRanks(1, [](FakeRank& rank) {
    rank.options.close_timeout = milliseconds(2000);
    for (const bool graphs_go_first : {false, true}) {
      auto world = rank.Make();
      ASSERT_TRUE(world.ok()) << world.status();
      const int before = rank.nccl.aborted;
      rank.nccl.hold_aborts = true;
      rank.nccl.state = NcclResult::kRemoteError;
      EXPECT_TRUE(absl::IsUnavailable((*world)->Check()));
      EXPECT_EQ(rank.nccl.aborted, before);
      const auto release = [&] {
        rank.nccl.hold_aborts = false;
        rank.nccl.hold_aborts.notify_all();
      };
      if (graphs_go_first) release();
      const milliseconds start = rank.time;
      world->reset();
      if (!graphs_go_first) {
        EXPECT_GE(rank.time - start, rank.options.close_timeout);
        release();
      }
      rank.nccl.AwaitAborts(before + 1);
      rank.nccl.state = NcclResult::kSuccess;
    }
  });
}

TEST(Nccl, RanksMakeANewOneAfterAnError) {
  RunRanks(2, [](FakeRank& rank) {
    auto world = rank.Make();
    ASSERT_TRUE(world.ok()) << world.status();
    CheckDeviceCommunicator(**world, rank.device);
    rank.nccl.state = NcclResult::kRemoteError;
    EXPECT_FALSE((*world)->Check().ok());
    world->reset();

    rank.nccl.state = NcclResult::kSuccess;
    world = rank.Make();
    ASSERT_TRUE(world.ok()) << world.status();
    CheckDeviceCommunicator(**world, rank.device);
    ASSERT_EQ(rank.nccl.ids.size(), 2u);
    EXPECT_NE(rank.nccl.ids[0].bytes, rank.nccl.ids[1].bytes);  // a group of its own
    EXPECT_EQ(rank.nccl.aborted, 1);
  });
}

}  // namespace
}  // namespace trireme
