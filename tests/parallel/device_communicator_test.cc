#include "parallel/device_communicator.h"

#include <cmath>
#include <functional>
#include <thread>

#include "tests/parallel/device_communicator_cases.h"

namespace trireme {
namespace {

// Runs `body` on a thread for each rank, with a device of its own; the thread destroys its
// communicator.
void RunRanks(int ranks, const std::function<void(Communicator&, FakeDevice&)>& body) {
  std::vector<std::thread> threads;
  for (auto& communicator : MakeLoopbackCommunicators(ranks)) {
    threads.emplace_back([own = std::move(communicator), &body] {
      FakeDevice device;
      body(*own, device);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class DeviceCommunicatorTest : public testing::TestWithParam<int> {};

TEST_P(DeviceCommunicatorTest, StagedConforms) {
  RunRanks(GetParam(), [](Communicator& host, FakeDevice& device) {
    const auto world = MakeStagedCommunicator(&host, &device);
    EXPECT_EQ(world->rank(), host.rank());
    EXPECT_EQ(world->size(), host.size());
    EXPECT_EQ(world->name(), "staged loopback");
    EXPECT_FALSE(world->capturable());
    CheckDeviceCommunicator(*world, device);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, DeviceCommunicatorTest, testing::Values(1, 2, 4));

// The host's own memory: neither copies nor another order of the sums.
TEST(HostDeviceCommunicator, PassesSpansOn) {
  RunRanks(2, [](Communicator& host, FakeDevice&) {
    const auto world = MakeHostDeviceCommunicator(&host);
    EXPECT_EQ(world->name(), "loopback");
    std::vector<float> data = {host.rank() == 0 ? 1e8f : 1.0f, -0.0f};
    EXPECT_TRUE(world->AllReduceSum(data).ok());
    EXPECT_EQ(data[0], 1e8f + 1.0f);
    EXPECT_TRUE(data[1] == 0.0f && std::signbit(data[1]));
    const std::byte mine{static_cast<unsigned char>(host.rank() + 5)};
    std::vector<std::byte> all(2);
    EXPECT_TRUE(world->AllGather({&mine, 1}, all).ok());
    EXPECT_EQ(all, (std::vector<std::byte>{std::byte{5}, std::byte{6}}));
    EXPECT_TRUE(host.rank() == 0 ? world->Send(all, 1).ok() : world->Recv(all, 0).ok());
    EXPECT_TRUE(world->Wait([]() -> absl::StatusOr<bool> { return true; }).ok());
  });
}

TEST(StagedCommunicator, SizesThatCannotBeAreInvalid) {
  RunRanks(2, [](Communicator& host, FakeDevice& device) {
    const auto world = MakeStagedCommunicator(&host, &device);
    const auto mine = device.Allocate<std::byte>(4);
    const absl::Status status = world->AllGather(mine, device.Allocate<std::byte>(7));
    EXPECT_FALSE(status.ok());
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  });
}

TEST(StagedCommunicator, APeerThatLeftIsUnavailable) {
  RunRanks(2, [](Communicator& host, FakeDevice& device) {
    if (host.rank() == 1) return;
    const auto world = MakeStagedCommunicator(&host, &device);
    const absl::Status status = world->AllReduceSum(device.Allocate<float>(4));
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  });
}

TEST(StagedCommunicator, AFailedCopyIsReportedAndNothingIsSent) {
  const auto hosts = MakeLoopbackCommunicators(2);
  FakeDevice device;
  const auto world = MakeStagedCommunicator(hosts[0].get(), &device);
  const auto data = device.Allocate<float>(4);
  device.fault = absl::InternalError("copy failed");
  EXPECT_EQ(world->AllReduceSum(data), device.fault);  // would wait for rank 1 otherwise
  EXPECT_EQ(world->Send(std::as_bytes(data), 1), device.fault);
}

TEST(DeviceCommunicator, WaitReturnsTheErrorOfTheWork) {
  const auto hosts = MakeLoopbackCommunicators(1);
  const auto world = MakeHostDeviceCommunicator(hosts[0].get());
  const absl::Status error = absl::InternalError("illegal address");
  EXPECT_EQ(world->Wait([&]() -> absl::StatusOr<bool> { return error; }), error);
}

}  // namespace
}  // namespace trireme
