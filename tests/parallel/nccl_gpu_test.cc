// Ranks on the GPUs of this machine, a thread each: over NCCL, and through host memory. Ends with
// 77 where there is no GPU.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "parallel/backends/nccl_library.h"
#include "parallel/backends/nccl_place.h"
#include "tests/parallel/device_communicator_cases.h"

namespace trireme {
namespace {

absl::Status ToStatus(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("CUDA: ", cudaGetErrorString(error)));
}

// A GPU and a stream of it, for the thread that makes it.
class GpuDevice final : public TestDevice {
 public:
  explicit GpuDevice(int device) {
    EXPECT_EQ(cudaSetDevice(device), cudaSuccess);
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  }
  ~GpuDevice() override {
    for (void* block : blocks_) cudaFree(block);
    cudaStreamDestroy(stream);
  }

  absl::Status CopyOut(std::span<const std::byte> device, std::span<std::byte> host) override {
    return Copy(host.data(), device.data(), host.size());
  }
  absl::Status CopyIn(std::span<const std::byte> host, std::span<std::byte> device) override {
    return Copy(device.data(), host.data(), host.size());
  }

  cudaStream_t stream = nullptr;

 private:
  std::byte* AllocateBytes(size_t bytes) override {
    void* block = nullptr;
    EXPECT_EQ(cudaMalloc(&block, bytes), cudaSuccess);
    blocks_.push_back(block);
    return static_cast<std::byte*>(block);
  }

  absl::Status Copy(void* to, const void* from, size_t bytes) {
    const cudaError_t copied = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
    return ToStatus(copied == cudaSuccess ? cudaStreamSynchronize(stream) : copied);
  }

  std::vector<void*> blocks_;
};

int Gpus() {
  int gpus = 0;
  return cudaGetDeviceCount(&gpus) == cudaSuccess ? gpus : 0;
}

int LargestPowerOfTwo(int limit) {
  int power = 1;
  while (power * 2 <= limit) power *= 2;
  return power;
}

// Rank r is a thread on GPU r, or on the only one there is.
void RunRanks(int ranks, const std::function<void(Communicator&, GpuDevice&)>& body) {
  std::vector<std::thread> threads;
  for (auto& communicator : MakeLoopbackCommunicators(ranks)) {
    threads.emplace_back([own = std::move(communicator), &body] {
      GpuDevice device(own->rank() % Gpus());
      body(*own, device);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

absl::StatusOr<std::unique_ptr<DeviceCommunicator>> MakeNccl(Communicator& host,
                                                             GpuDevice& device) {
  const absl::StatusOr<NcclPlace> place = FindNcclPlace(device.stream);
  if (!place.ok()) return place.status();
  const absl::StatusOr<NcclApi> nccl = LoadNccl();
  if (!nccl.ok()) return nccl.status();
  return MakeNcclCommunicator(*nccl, *place, {}, host);
}

TEST(NcclOnGpus, ConformsAndCanBeMadeAgain) {
  RunRanks(LargestPowerOfTwo(std::min(Gpus(), 8)), [](Communicator& host, GpuDevice& device) {
    for (int round = 0; round < 2; ++round) {
      const auto world = MakeNccl(host, device);
      ASSERT_TRUE(world.ok()) << world.status();
      CheckDeviceCommunicator(**world, device);
    }
  });
}

// A graph makes the calls again, and is gone before the communicator.
TEST(NcclOnGpus, CallsAreCaptured) {
  RunRanks(LargestPowerOfTwo(std::min(Gpus(), 8)), [](Communicator& host, GpuDevice& device) {
    const auto world = MakeNccl(host, device);
    ASSERT_TRUE(world.ok()) << world.status();
    const auto data = device.Upload(std::vector<float>(1000, 1.0f));
    ASSERT_TRUE((*world)->AllReduceSum(data).ok());  // connects
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    ASSERT_EQ(cudaStreamSynchronize(device.stream), cudaSuccess);
    ASSERT_EQ(cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_TRUE((*world)->AllReduceSum(data).ok());
    ASSERT_EQ(cudaStreamEndCapture(device.stream, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    float expected = static_cast<float>(host.size());
    for (int replay = 0; replay < 3; ++replay) {
      ASSERT_EQ(cudaGraphLaunch(exec, device.stream), cudaSuccess);
      expected *= static_cast<float>(host.size());
    }
    const auto done = [&]() -> absl::StatusOr<bool> {
      const cudaError_t state = cudaStreamQuery(device.stream);
      if (state == cudaErrorNotReady) return false;
      if (state != cudaSuccess) return ToStatus(state);
      return true;
    };
    EXPECT_TRUE((*world)->Wait(done).ok());
    EXPECT_EQ(device.Download(data), std::vector<float>(1000, expected));
    EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  });
}

TEST(NcclOnGpus, RanksThatShareAGpuAreRefused) {
  RunRanks(2 * Gpus(), [](Communicator& host, GpuDevice& device) {
    const absl::Status status = MakeNccl(host, device).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_TRUE(absl::StrContains(std::string(status.message()), "both use the GPU")) << status;
  });
}

TEST(StagedOnGpus, RanksMayShareAGpu) {
  for (const int ranks : {1, 2, 4}) {
    RunRanks(ranks, [](Communicator& host, GpuDevice& device) {
      CheckDeviceCommunicator(*MakeStagedCommunicator(&host, &device), device);
    });
  }
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (trireme::Gpus() == 0) {
    std::cerr << "skipped: no GPU here" << std::endl;
    return 77;
  }
  return RUN_ALL_TESTS();
}
