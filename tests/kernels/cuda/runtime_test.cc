#include "kernels/cuda/runtime.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cuda/activation.h"

namespace trireme::cuda {
namespace {

TEST(Runtime, ErrorsNameTheCallAndTheRemedy) {
  EXPECT_TRUE(ToStatus(cudaSuccess, "cudaFree").ok());
  const absl::Status no_gpu = ToStatus(cudaErrorNoDevice, "cudaSetDevice");
  EXPECT_EQ(no_gpu.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(no_gpu.ToString().find("cudaSetDevice: cudaErrorNoDevice"), std::string::npos);
  EXPECT_NE(no_gpu.ToString().find("nvidia-smi"), std::string::npos);
  EXPECT_NE(
      ToStatus(cudaErrorNoKernelImageForDevice, "x").ToString().find("CMAKE_CUDA_ARCHITECTURES"),
      std::string::npos);
  EXPECT_EQ(ToStatus(cudaErrorIllegalAddress, "x").code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ToStatus(cudaErrorInvalidValue, "x").code(), absl::StatusCode::kInternal);
}

TEST(Runtime, TooMuchMemoryIsAnErrorThatSaysHowMuchAndWhatToLower) {
  const auto memory = DeviceMemory::Allocate(
      int64_t{1} << 46, {.purpose = "the KV cache", .flag = "--kv-cache-bytes"});
  ASSERT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message = memory.status().ToString();
  for (const char* part : {"65536.00 GiB", "the KV cache", "are free", "lower --kv-cache-bytes"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  EXPECT_TRUE(LaunchStatus("after it").ok());  // the next call is not blamed
}

TEST(Runtime, MemoryIsGivenBack) {
  const int64_t before = DeviceMemoryInfo()->free_bytes;
  {
    const auto memory = DeviceMemory::Allocate(64 << 20, {.purpose = "a test"});
    ASSERT_TRUE(memory.ok());
    EXPECT_EQ(memory->bytes(), 64 << 20);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % 256, 0u);
    EXPECT_LE(DeviceMemoryInfo()->free_bytes, before - (64 << 20));
  }
  EXPECT_EQ(DeviceMemoryInfo()->free_bytes, before);
  EXPECT_EQ(DeviceMemory::Allocate(0, {.purpose = "nothing"})->data(), nullptr);
}

TEST(Runtime, StreamsAndEventsOrderCopies) {
  const Stream up = *Stream::Create(), down = *Stream::Create();
  const Event arrived = *Event::Create();
  constexpr int64_t kBytes = 4 * 1000;
  const PinnedMemory from = *PinnedMemory::Allocate(kBytes, {.purpose = "a test"});
  const PinnedMemory to = *PinnedMemory::Allocate(kBytes, {.purpose = "a test"});
  const DeviceMemory device = *DeviceMemory::Allocate(kBytes, {.purpose = "a test"});
  std::iota(from.As<int32_t>(), from.As<int32_t>() + 1000, 7);
  ASSERT_TRUE(up.Copy(device.data(), from.data(), kBytes).ok());
  ASSERT_TRUE(arrived.Record(up.get()).ok());
  ASSERT_TRUE(down.WaitFor(arrived).ok());
  ASSERT_TRUE(down.Copy(to.data(), device.data(), kBytes).ok());
  ASSERT_TRUE(down.Synchronize().ok());
  EXPECT_TRUE(*arrived.Done());
  EXPECT_EQ(std::memcmp(from.data(), to.data(), kBytes), 0);
}

TEST(Runtime, EventsTellTheTime) {
  const Stream stream = *Stream::Create();
  const Event begin = *Event::Create(Event::Timing::kOn), end = *Event::Create(Event::Timing::kOn);
  ASSERT_TRUE(begin.Record(stream.get()).ok());
  ASSERT_TRUE(end.Record(stream.get()).ok());
  ASSERT_TRUE(end.Synchronize().ok());
  EXPECT_GE(*Event::Milliseconds(begin, end), 0.0f);
}

// A graph reads its inputs at each launch.
TEST(Runtime, AGraphReplaysCopiesAndKernels) {
  const Stream stream = *Stream::Create();
  constexpr int64_t kBytes = 8;
  const PinnedMemory plan = *PinnedMemory::Allocate(kBytes, {.purpose = "a test"});
  const PinnedMemory result = *PinnedMemory::Allocate(kBytes, {.purpose = "a test"});
  const DeviceMemory sum = *DeviceMemory::Allocate(kBytes, {.purpose = "a test"});
  const DeviceMemory delta = *DeviceMemory::Allocate(kBytes, {.purpose = "a test"});
  ASSERT_TRUE(stream.Fill(sum.data(), 0, kBytes).ok());
  const absl::StatusOr<Graph> graph = Graph::Capture(stream, [&] {
    absl::Status copied = stream.Copy(delta.data(), plan.data(), kBytes);
    AddResidual({.hidden = sum.As<float>(),
                 .delta = delta.As<float>(),
                 .rows = 1,
                 .cols = 2,
                 .stream = stream.get()});
    copied.Update(LaunchStatus("a residual"));
    copied.Update(stream.Copy(result.data(), sum.data(), kBytes));
    return copied;
  });
  ASSERT_TRUE(graph.ok()) << graph.status();
  float expected[2] = {0, 0};
  for (int step = 1; step <= 3; ++step) {
    for (int i = 0; i < 2; ++i) {
      plan.As<float>()[i] = static_cast<float>(step + 10 * i);
      expected[i] += plan.As<float>()[i];
    }
    ASSERT_TRUE(graph->Launch(stream).ok());
    ASSERT_TRUE(stream.Synchronize().ok());
    EXPECT_EQ(result.As<float>()[0], expected[0]);
    EXPECT_EQ(result.As<float>()[1], expected[1]);
  }
}

TEST(Runtime, AGraphThatWaitsOrFailsIsAnError) {
  const Stream stream = *Stream::Create();
  EXPECT_EQ(Graph::Capture(stream, [] { return absl::UnimplementedError("not this"); })
                .status()
                .message(),
            "not this");
  EXPECT_FALSE(Graph::Capture(stream, [&] { return stream.Synchronize(); }).ok());
  // The same where only the end of the capture tells.
  const auto wait_unseen = [&] {
    stream.Synchronize().IgnoreError();
    cudaGetLastError();
    return absl::OkStatus();
  };
  EXPECT_EQ(Graph::Capture(stream, wait_unseen).status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(LaunchStatus("after it").ok());  // which is not blamed for what was reported
  // The stream is as before.
  EXPECT_TRUE(Graph::Capture(stream, [] { return absl::OkStatus(); }).ok());
  EXPECT_TRUE(stream.Synchronize().ok());
}

}  // namespace
}  // namespace trireme::cuda
