#include "tests/parallel/device_communicator_cases.h"

#include <vector>

namespace trireme {
namespace {

const std::vector<size_t> kSizes = {0, 1, 7, 1000, 70001};

std::vector<std::byte> Message(int rank, size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<std::byte>((static_cast<size_t>(rank) * 131 + i * 7 + i / 251) & 0xff);
  }
  return bytes;
}

// Small integers, whose sums are exact in any order.
float Term(int rank, size_t i) { return static_cast<float>((rank + 1) * 3 + i % 1000); }

void CheckAllReduce(DeviceCommunicator& world, TestDevice& device) {
  for (const size_t size : kSizes) {
    std::vector<float> mine(size);
    std::vector<float> expected(size);
    for (size_t i = 0; i < size; ++i) {
      mine[i] = Term(world.rank(), i);
      for (int rank = 0; rank < world.size(); ++rank) expected[i] += Term(rank, i);
    }
    const std::span<float> data = device.Upload(mine);
    EXPECT_TRUE(world.AllReduceSum(data).ok());
    EXPECT_EQ(device.Download(data), expected);
  }
}

void CheckAllGather(DeviceCommunicator& world, TestDevice& device) {
  for (const size_t size : kSizes) {
    std::vector<std::byte> expected;
    for (int rank = 0; rank < world.size(); ++rank) {
      const std::vector<std::byte> block = Message(rank, size);
      expected.insert(expected.end(), block.begin(), block.end());
    }
    const auto all = device.Allocate<std::byte>(size * world.size());
    EXPECT_TRUE(world.AllGather(device.Upload(Message(world.rank(), size)), all).ok());
    EXPECT_EQ(device.Download(all), expected);
  }
}

// Every rank but the first gets its predecessor's message and passes its own on, as stages do.
void CheckStages(DeviceCommunicator& world, TestDevice& device) {
  for (const size_t size : kSizes) {
    const auto got = device.Allocate<std::byte>(size);
    if (world.rank() > 0) {
      EXPECT_TRUE(world.Recv(got, world.rank() - 1).ok());
      EXPECT_EQ(device.Download(got), Message(world.rank() - 1, size));
    }
    if (world.rank() + 1 < world.size()) {
      const auto mine = device.Upload(Message(world.rank(), size));
      EXPECT_TRUE(world.Send(mine, world.rank() + 1).ok());
    }
  }
}

}  // namespace

void CheckDeviceCommunicator(DeviceCommunicator& world, TestDevice& device) {
  CheckAllReduce(world, device);
  CheckAllGather(world, device);
  CheckStages(world, device);
  EXPECT_TRUE(world.Check().ok());
  int asked = 0;
  EXPECT_TRUE(world.Wait([&]() -> absl::StatusOr<bool> { return ++asked == 3; }).ok());
  EXPECT_EQ(asked, 3);
}

}  // namespace trireme
