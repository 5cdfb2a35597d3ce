// The emulation itself, held against what the CUDA programming guide and the PTX ISA say.

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {
namespace {

__global__ void ReverseKernel(const int* in, int* out, int n) {
  int* shared = DynamicShared<int>();
  const int i = static_cast<int>(threadIdx.x);
  shared[i] = in[blockIdx.x * blockDim.x + threadIdx.x];
  SyncThreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = shared[n - 1 - i];
}

TEST(Simt, ThreadsOfABlockMeetAtBarriers) {
  std::vector<int> in(256), out(256);
  std::iota(in.begin(), in.end(), 0);
  Launch(ReverseKernel, {.grid = dim3(2), .block = dim3(128), .shared_bytes = 512}, in.data(),
         out.data(), 128);
  EXPECT_EQ(out[0], 127);
  EXPECT_EQ(out[127], 0);
  EXPECT_EQ(out[128], 255);
}

__global__ void WarpKernel(int* sums, uint32_t* votes) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  sums[threadIdx.x] = WarpSum(lane) + Shuffle(lane, 3) * 1000 + ShuffleXor(lane, 1) * 10000;
  votes[threadIdx.x] = Ballot(lane % 3 == 0);
}

TEST(Simt, LanesSeeEachOthersValues) {
  std::vector<int> sums(64);
  std::vector<uint32_t> votes(64);
  Launch(WarpKernel, {.block = dim3(64)}, sums.data(), votes.data());
  EXPECT_EQ(sums[0], 496 + 3000 + 10000);
  EXPECT_EQ(sums[33], 496 + 3000);
  EXPECT_EQ(votes[5], 0x49249249u);
}

// A [16, 16] and B [16, 8] by the fragment layout of the PTX ISA.
__global__ void MmaKernel(const float* a, const float* b, float* c, bool half) {
  const int lane = static_cast<int>(threadIdx.x);
  const int g = lane / 4, q = lane % 4;
  const auto pair = [&](float low, float high) {
    const uint32_t x = half ? __half_as_ushort(__float2half_rn(low))
                            : __bfloat16_as_ushort(__float2bfloat16_rn(low));
    const uint32_t y = half ? __half_as_ushort(__float2half_rn(high))
                            : __bfloat16_as_ushort(__float2bfloat16_rn(high));
    return x | y << 16;
  };
  uint32_t fa[4], fb[2];
  for (int i = 0; i < 4; ++i) {
    const float* from = a + (g + i % 2 * 8) * 16 + 2 * q + i / 2 * 8;
    fa[i] = pair(from[0], from[1]);
  }
  for (int i = 0; i < 2; ++i) {
    fb[i] = pair(b[(2 * q + i * 8) * 8 + g], b[(2 * q + i * 8 + 1) * 8 + g]);
  }
  float fc[4] = {1, 1, 1, 1};
  half ? MmaF16(fc, fa, fb) : MmaBf16(fc, fa, fb);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * q + i % 2] = fc[i];
}

TEST(Simt, MatrixProductOfAWarp) {
  std::vector<float> a(256), b(128), c(128);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(static_cast<int>(i * 7 % 15) - 7);
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(static_cast<int>(i * 5 % 11) - 5);
  for (const bool half : {false, true}) {
    Launch(MmaKernel, {}, a.data(), b.data(), c.data(), half);
    for (size_t m = 0; m < 16; ++m) {
      for (size_t n = 0; n < 8; ++n) {
        float sum = 1;
        for (size_t k = 0; k < 16; ++k) sum += a[m * 16 + k] * b[k * 8 + n];
        EXPECT_EQ(c[m * 8 + n], sum) << m << " " << n;
      }
    }
  }
}

__global__ void LoadMatrixKernel(const uint16_t* in, uint32_t* plain, uint32_t* transposed) {
  uint16_t* shared = DynamicShared<uint16_t>();
  for (int i = 0; i < 8; ++i) shared[threadIdx.x * 8 + i] = in[threadIdx.x * 8 + i];
  SyncWarp();
  uint32_t d[4], t[4];
  LoadMatrix4(d, shared + threadIdx.x * 8);
  LoadMatrix4Transposed(t, shared + threadIdx.x * 8);
  for (int m = 0; m < 4; ++m) {
    plain[m * 32 + threadIdx.x] = d[m];
    transposed[m * 32 + threadIdx.x] = t[m];
  }
}

TEST(Simt, MatricesFromSharedMemory) {
  std::vector<uint16_t> in(256);
  std::iota(in.begin(), in.end(), uint16_t{0});
  std::vector<uint32_t> plain(128), transposed(128);
  Launch(LoadMatrixKernel, {.shared_bytes = 512}, in.data(), plain.data(), transposed.data());
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t g = lane / 4, q = lane % 4;
    const uint32_t matrix = 3 * 64;  // its elements count up from here
    EXPECT_EQ(plain[3 * 32 + lane], (matrix + g * 8 + 2 * q) | (matrix + g * 8 + 2 * q + 1) << 16);
    EXPECT_EQ(transposed[3 * 32 + lane], (matrix + 2 * q * 8 + g) | (matrix + (2 * q + 1) * 8 + g)
                                                                        << 16);
  }
}

__global__ void CopyKernel(const float* in, float* out, bool wait) {
  float* shared = DynamicShared<float>();
  CopyAsync16(shared, in, true);
  CopyAsync16(shared + 4, in + 4, false);
  CommitCopies();
  if (wait) WaitCopies<0>();
  for (int i = 0; i < 8; ++i) out[i] = shared[i];
}

TEST(Simt, CopiesArriveWithTheWait) {
  alignas(16) const std::array<float, 8> in = {1, 2, 3, 4, 5, 6, 7, 8};
  std::array<float, 8> out{};
  Launch(CopyKernel, {.block = dim3(1), .shared_bytes = 32}, in.data(), out.data(), true);
  EXPECT_EQ(out, (std::array<float, 8>{1, 2, 3, 4, 0, 0, 0, 0}));
  Launch(CopyKernel, {.block = dim3(1), .shared_bytes = 32}, in.data(), out.data(), false);
  EXPECT_TRUE(std::isnan(out[0]));
}

// Writes what another thread reads, with and without the barrier between.
__global__ void NeighbourKernel(int* out, bool barrier) {
  int* shared = DynamicShared<int>();
  const unsigned thread = threadIdx.x;
  shared[thread] = static_cast<int>(thread);
  if (barrier) SyncThreads();
  out[thread] = shared[thread ^ 1u];
}

TEST(Simt, AMissingBarrierShows) {
  std::vector<int> out(64), expected(64);
  for (size_t i = 0; i < out.size(); ++i) expected[i] = static_cast<int>(i ^ 1u);
  const LaunchShape shape = {.block = dim3(64), .shared_bytes = 256};
  Launch(NeighbourKernel, shape, out.data(), true);
  EXPECT_EQ(out, expected);
  Launch(NeighbourKernel, shape, out.data(), false);
  EXPECT_NE(out, expected);
}

// The first thread writes for all: right by chance wherever it comes first.
__global__ void FirstKernel(int* out, bool barrier) {
  int* shared = DynamicShared<int>();
  if (threadIdx.x == 0) *shared = 7;
  if (barrier) SyncThreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = *shared;
}

TEST(Simt, NoThreadIsAlwaysFirst) {
  const std::vector<int> expected(4 * 32, 7);
  std::vector<int> out(expected.size());
  const LaunchShape shape = {.grid = dim3(4), .block = dim3(32), .shared_bytes = 4};
  Launch(FirstKernel, shape, out.data(), true);
  EXPECT_EQ(out, expected);
  Launch(FirstKernel, shape, out.data(), false);
  EXPECT_NE(out, expected);
}

__global__ void LeavesKernel() {
  if (threadIdx.x > 0) SyncThreads();
}

TEST(SimtDeathTest, AThreadThatLeavesOthersWaiting) {
  EXPECT_DEATH(Launch(LeavesKernel, {.block = dim3(2)}), "wait at a barrier");
}

__global__ void AddOneKernel(int* x) { ++*x; }

TEST(Simt, AGraphRepeatsWhatItCaptured) {
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  int x = 0;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  Launch(AddOneKernel, {.block = dim3(1), .stream = stream}, &x);
  cudaGraph_t graph;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(x, 0);
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(x, 2);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  cudaGetLastError();
  cudaGraphExecDestroy(exec);
  cudaStreamDestroy(stream);
}

// What does not wait sees that nothing has been done.
TEST(Simt, AStreamDoesNothingBeforeSomebodyWaits) {
  cudaStream_t first, second;
  cudaEvent_t event;
  ASSERT_EQ(cudaStreamCreate(&first), cudaSuccess);
  ASSERT_EQ(cudaStreamCreate(&second), cudaSuccess);
  ASSERT_EQ(cudaEventCreate(&event), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);  // never recorded
  int x = 0;
  int seen = 0;
  const auto launch = [&] { Launch(AddOneKernel, {.block = dim3(1), .stream = first}, &x); };
  launch();
  ASSERT_EQ(cudaEventRecord(event, first), cudaSuccess);
  launch();
  EXPECT_EQ(x, 0);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_EQ(x, 0);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  EXPECT_EQ(x, 1);  // not what came after
  ASSERT_EQ(cudaEventRecord(event, first), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second, event), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(&seen, &x, sizeof(x), cudaMemcpyDefault, second), cudaSuccess);
  EXPECT_EQ(x, 1);
  ASSERT_EQ(cudaStreamSynchronize(second), cudaSuccess);
  EXPECT_EQ(seen, 2);
  launch();
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(x, 3);
  cudaGetLastError();
  cudaEventDestroy(event);
  cudaStreamDestroy(first);
  cudaStreamDestroy(second);
}

// Halves and bfloat16 of all 16 bit patterns against the compiler's own conversions.
TEST(Simt, SixteenBitFloats) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = HalfBits(static_cast<uint16_t>(bits));
    if (!std::isnan(value)) {
      EXPECT_EQ(BitsOfHalf(value), bits);
    }
  }
  EXPECT_EQ(HalfBits(0x3c01), 1.0009765625f);
  EXPECT_EQ(BitsOfHalf(1.00048828125f), 0x3c00);  // a tie, to even
  EXPECT_EQ(BitsOfHalf(65519.0f), 0x7bff);
  EXPECT_EQ(BitsOfHalf(65520.0f), 0x7c00);
  EXPECT_EQ(__float2bfloat16_rn(1.00390625f).bits, 0x3f80);  // a tie, to even
}

}  // namespace
}  // namespace trireme::cuda
