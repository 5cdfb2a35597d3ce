// The communicator of one host on emulated GPUs: ranks are threads.

#include "parallel/backends/ipc.h"

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "tests/kernels/cuda/device_array.h"
#include "tests/parallel/device_communicator_cases.h"
#include "tests/parallel/rank_threads.h"

namespace trireme {
namespace {

using cuda::DeviceArray;

// Emulated memory of one rank.
class EmulatedDevice final : public TestDevice {
 public:
  absl::Status CopyOut(std::span<const std::byte> device, std::span<std::byte> host) override {
    return Copy(host.data(), device.data(), host.size());
  }
  absl::Status CopyIn(std::span<const std::byte> host, std::span<std::byte> device) override {
    return Copy(device.data(), host.data(), host.size());
  }

 private:
  std::byte* AllocateBytes(size_t bytes) override {
    return memory_.emplace_back(std::make_unique<DeviceArray<std::byte>>(bytes))->data();
  }
  static absl::Status Copy(void* to, const void* from, size_t bytes) {
    EXPECT_EQ(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), cudaSuccess);
    return absl::OkStatus();
  }

  std::vector<std::unique_ptr<DeviceArray<std::byte>>> memory_;
};

// Counts what is left to the other communicator.
class Counting final : public DeviceCommunicator {
 public:
  Counting(std::unique_ptr<DeviceCommunicator> inner, int* sums)
      : inner_(std::move(inner)), sums_(sums) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  std::string_view name() const override { return inner_->name(); }
  bool capturable() const override { return inner_->capturable(); }
  absl::Status AllReduceSum(std::span<float> data) override {
    ++*sums_;
    return inner_->AllReduceSum(data);
  }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    return inner_->AllGather(mine, all);
  }
  absl::Status Send(std::span<const std::byte> data, int peer) override {
    return inner_->Send(data, peer);
  }
  absl::Status Recv(std::span<std::byte> data, int peer) override {
    return inner_->Recv(data, peer);
  }
  absl::Status Check() override { return inner_->Check(); }

 private:
  const std::unique_ptr<DeviceCommunicator> inner_;
  int* const sums_;
};

class IpcOf : public testing::TestWithParam<int> {};

TEST_P(IpcOf, Conforms) {
  RunLoopbackRanks(GetParam(), [](Communicator& world) {
    EmulatedDevice device;
    auto group = MakeIpcCommunicator(&world, nullptr, MakeStagedCommunicator(&world, &device));
    ASSERT_TRUE(group.ok()) << group.status();
    EXPECT_EQ((*group)->name(), "ipc");
    EXPECT_FALSE((*group)->capturable());  // as the staged way is not
    CheckDeviceCommunicator(**group, device);
  });
}

TEST_P(IpcOf, LargeSumsAreInPiecesWhereTheOrderMatters) {
  RunLoopbackRanks(GetParam(), [](Communicator& world) {
    const size_t count = 2 * (1 << 18) + 5;
    for (const bool deterministic : {false, true}) {
      int large_sums = 0;
      EmulatedDevice device;
      auto group = MakeIpcCommunicator(
          &world, nullptr,
          std::make_unique<Counting>(MakeStagedCommunicator(&world, &device), &large_sums),
          {.deterministic = deterministic});
      ASSERT_TRUE(group.ok()) << group.status();
      std::vector<float> want(count);
      for (size_t i = 0; i < count; ++i) {
        want[i] = static_cast<float>(i % 1013) * (world.rank() % 2 == 0 ? 1e6f : 1.7f);
      }
      const DeviceArray<float> data(want);
      ASSERT_TRUE((*group)->AllReduceSum({data.data(), count}).ok());
      ASSERT_TRUE(world.AllReduceSum(want).ok());
      EXPECT_EQ(data.ToHost(), want);
      EXPECT_EQ(large_sums, deterministic ? 0 : 1);
    }
  });
}

TEST_P(IpcOf, WorksAloneButForPointToPoint) {
  RunLoopbackRanks(GetParam(), [](Communicator& world) {
    auto group = MakeIpcCommunicator(&world, nullptr, nullptr);
    ASSERT_TRUE(group.ok()) << group.status();
    EXPECT_TRUE((*group)->capturable());
    const DeviceArray<float> data(std::vector<float>(300'000, 1.0f));
    ASSERT_TRUE((*group)->AllReduceSum({data.data(), data.size()}).ok());
    EXPECT_EQ(data.ToHost(), std::vector<float>(300'000, static_cast<float>(world.size())));
    const std::vector<std::byte> mine(1'500'000, static_cast<std::byte>(world.rank() + 1));
    const DeviceArray<std::byte> d_mine(mine), all(mine.size() * static_cast<size_t>(world.size()));
    ASSERT_TRUE((*group)->AllGather({d_mine.data(), mine.size()}, {all.data(), all.size()}).ok());
    const std::vector<std::byte> got = all.ToHost();
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], static_cast<std::byte>(i / mine.size() + 1)) << i;
    }
    EXPECT_EQ((*group)->Send({all.data(), 4}, 0).code(), absl::StatusCode::kFailedPrecondition);
  });
}

TEST_P(IpcOf, SmallSumsHaveTheBitsOfTheHost) {
  RunLoopbackRanks(GetParam(), [](Communicator& world) {
    auto group = MakeIpcCommunicator(&world, nullptr, nullptr);
    ASSERT_TRUE(group.ok()) << group.status();
    for (const size_t count : {size_t{1}, size_t{1001}, size_t{200'000}}) {  // one-shot, two-shot
      std::vector<float> want(count);
      for (size_t i = 0; i < count; ++i) {
        want[i] = static_cast<float>(i % 1013 + 1) * (world.rank() % 2 == 0 ? 1e6f : 1.7f);
      }
      const DeviceArray<float> data(want);
      ASSERT_TRUE((*group)->AllReduceSum({data.data(), count}).ok());
      ASSERT_TRUE(world.AllReduceSum(want).ok());
      EXPECT_EQ(data.ToHost(), want) << count;
    }
  });
}

TEST_P(IpcOf, CallsAreCaptured) {
  RunLoopbackRanks(GetParam(), [](Communicator& world) {
    cudaStream_t stream = nullptr;
    ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
    {
      auto group = MakeIpcCommunicator(&world, stream, nullptr);
      ASSERT_TRUE(group.ok()) << group.status();
      const DeviceArray<float> data(std::vector<float>(1000, 1.0f));
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t exec = nullptr;
      ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
      EXPECT_TRUE((*group)->AllReduceSum({data.data(), data.size()}).ok());
      ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
      ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
      float want = 1.0f;
      for (int replay = 0; replay < 3; ++replay) {
        ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
        want *= static_cast<float>(world.size());
      }
      const auto done = [&]() -> absl::StatusOr<bool> {
        const bool ended = cudaStreamQuery(stream) == cudaSuccess;
        if (!ended) (void)cudaGetLastError();  // "not ready" stays as the last error
        return ended;
      };
      EXPECT_TRUE((*group)->Wait(done).ok());
      EXPECT_EQ(data.ToHost(), std::vector<float>(1000, want));
      EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
      EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    }
    EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  });
}

// Against double arithmetic.
TEST_P(IpcOf, SumsAndNormalises) {
  RunLoopbackRanks(GetParam(), [](Communicator& world) {
    auto group = MakeIpcCommunicator(&world, nullptr, nullptr);
    ASSERT_TRUE(group.ok()) << group.status();
    constexpr size_t kRows = 3, kCols = 512, kSize = kRows * kCols;
    std::vector<float> delta(kSize), hidden(kSize), bias(kCols), weight(kCols);
    for (size_t i = 0; i < kSize; ++i) {
      delta[i] = static_cast<float>(i % 17) + static_cast<float>(world.rank());
      hidden[i] = static_cast<float>(i % 29) - 14.0f;
    }
    for (size_t i = 0; i < kCols; ++i) {
      bias[i] = static_cast<float>(i % 5) - 2.0f;
      weight[i] = static_cast<float>(i % 7) / 4.0f;
    }
    const DeviceArray<float> d_delta(delta), d_hidden(hidden), d_bias(bias), d_weight(weight),
        out(kSize);
    IpcCommunicator::SumAndNorm operands = {.delta = {d_delta.data(), kSize},
                                            .hidden = {d_hidden.data(), kSize},
                                            .bias = {d_bias.data(), kCols},
                                            .weight = {d_weight.data(), kCols},
                                            .eps = 1e-5f,
                                            .out = {out.data(), kSize}};
    ASSERT_TRUE((*group)->AllReduceRmsNorm(operands).ok());
    const std::vector<float> got_hidden = d_hidden.ToHost(), got = out.ToHost();
    const double ranks = world.size();
    for (size_t row = 0; row < kRows; ++row) {
      std::vector<double> x(kCols);
      double squares = 0;
      for (size_t col = 0; col < kCols; ++col) {
        const size_t i = row * kCols + col;
        x[col] = hidden[i] + ranks * static_cast<double>(i % 17) + ranks * (ranks - 1) / 2 +
                 static_cast<double>(bias[col]);
        squares += x[col] * x[col];
        ASSERT_EQ(got_hidden[i], x[col]);  // small integers: exact
      }
      const double scale = 1 / std::sqrt(squares / kCols + 1e-5);
      for (size_t col = 0; col < kCols; ++col) {
        ASSERT_NEAR(got[row * kCols + col], x[col] * scale * weight[col], 1e-5);
      }
    }
    operands.bias = {d_bias.data(), kCols - 1};
    EXPECT_EQ((*group)->AllReduceRmsNorm(operands).code(), absl::StatusCode::kInvalidArgument);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, IpcOf, testing::Values(2, 4, 8));

TEST(Ipc, APeerThatDoesNotComeIsAnError) {
  RunLoopbackRanks(2, [](Communicator& world) {
    auto group =
        MakeIpcCommunicator(&world, nullptr, nullptr, {.timeout = std::chrono::milliseconds(5)});
    ASSERT_TRUE(group.ok()) << group.status();
    if (world.rank() == 1) return;
    const DeviceArray<float> data(std::vector<float>(10, 1.0f));
    ASSERT_TRUE((*group)->AllReduceSum({data.data(), 10}).ok());  // noticed by the device
    const absl::Status status = (*group)->Check();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr("rank 1 did not come to a collective within 5 ms"));
    EXPECT_EQ((*group)->AllReduceSum({data.data(), 10}), status);
  });
}

// Also where another communicator does the waiting; its calls are not made.
TEST(Ipc, WaitNoticesAPeerThatDoesNotCome) {
  for (const bool has_large : {false, true}) {
    RunLoopbackRanks(2, [&](Communicator& world) {
      EmulatedDevice device;
      auto group = MakeIpcCommunicator(
          &world, nullptr, has_large ? MakeStagedCommunicator(&world, &device) : nullptr,
          {.timeout = std::chrono::milliseconds(5)});
      ASSERT_TRUE(group.ok()) << group.status();
      if (world.rank() == 1) return;
      const DeviceArray<float> data(std::vector<float>(10, 1.0f));
      ASSERT_TRUE((*group)->AllReduceSum({data.data(), 10}).ok());
      const auto done = []() -> absl::StatusOr<bool> { return true; };
      EXPECT_EQ((*group)->Wait(done).code(), absl::StatusCode::kUnavailable);
    });
  }
}

TEST(Ipc, RefusesWhatItCannotDo) {
  RunLoopbackRanks(3, [](Communicator& world) {
    EXPECT_EQ(MakeIpcCommunicator(&world, nullptr, nullptr).status().code(),
              absl::StatusCode::kFailedPrecondition);
  });
  RunLoopbackRanks(2, [](Communicator& world) {
    auto group = MakeIpcCommunicator(&world, nullptr, nullptr);
    ASSERT_TRUE(group.ok()) << group.status();
    const DeviceArray<std::byte> bytes(8);
    EXPECT_EQ((*group)->AllGather({bytes.data(), 2}, {bytes.data(), 8}).code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE((*group)->CanFuse(32, 8192));
    EXPECT_FALSE((*group)->CanFuse(33, 512));
    EXPECT_FALSE((*group)->CanFuse(1, 8196));
    EXPECT_FALSE((*group)->CanFuse(1, 510));
  });
}

TEST(ChooseAllReduce, BySize) {
  using enum AllReduceWay;
  EXPECT_EQ(ChooseAllReduce(0, 8, false, true), kOneShot);
  EXPECT_EQ(ChooseAllReduce(64 << 10, 8, false, true), kOneShot);
  EXPECT_EQ(ChooseAllReduce((64 << 10) + 4, 8, false, true), kTwoShot);
  EXPECT_EQ(ChooseAllReduce(128 << 10, 4, false, true), kOneShot);
  EXPECT_EQ(ChooseAllReduce(512 << 10, 2, false, true), kOneShot);
  EXPECT_EQ(ChooseAllReduce(1 << 20, 2, false, true), kTwoShot);
  EXPECT_EQ(ChooseAllReduce((1 << 20) + 4, 2, false, true), kLarge);
  EXPECT_EQ(ChooseAllReduce((1 << 20) + 4, 2, true, true), kTwoShotPieces);
  EXPECT_EQ(ChooseAllReduce((1 << 20) + 4, 2, false, false), kTwoShotPieces);
}

}  // namespace
}  // namespace trireme
