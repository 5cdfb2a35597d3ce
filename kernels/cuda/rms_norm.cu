#include "kernels/cuda/rms_norm.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/shape.h"
#include "kernels/cuda/vectors.cuh"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {
namespace {

// A row's sum has one order, which depends on its length alone: a thread's columns, the lanes of a
// warp in a tree, the warps one after another.

constexpr int kThreadsMax = 1024;
constexpr int kWarps = 8;  // of a block whose warps have a row each

__device__ float BlockSum(float sum) {
  __shared__ float warp_sums[kThreadsMax / kWarpLanes];
  const unsigned thread = threadIdx.x;
  sum = WarpSum(sum);
  if (thread % kWarpLanes == 0) warp_sums[thread / kWarpLanes] = sum;
  SyncThreads();
  float total = 0.0f;
  for (unsigned warp = 0; warp < blockDim.x / kWarpLanes; ++warp) total += warp_sums[warp];
  return total;
}

__device__ float Scale(const RmsNormArgs& a, float squares) {
  return 1.0f / sqrtf(squares / static_cast<float>(a.cols) + a.eps);
}

// A row for each block, or for each warp; a thread keeps its columns, kFours times four of them.
template <int kFours, bool kBlockRows>
__global__ void __launch_bounds__(kThreadsMax) RmsNormKernel(const RmsNormArgs a) {
  const int threads = kBlockRows ? static_cast<int>(blockDim.x) : kWarpLanes;
  const int thread = static_cast<int>(threadIdx.x) % threads;
  const int64_t row = kBlockRows ? blockIdx.x : int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= a.rows) return;
  const auto add = [](float x, float y) { return x + y; };
  float4 x[kFours] = {};
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int64_t col = (int64_t{i} * threads + thread) * 4;
    if (col >= a.cols) continue;
    const int64_t at = row * a.cols + col;
    x[i] = LoadFour(a.hidden + at);
    if (a.delta != nullptr) {
      x[i] = MapFour(x[i], LoadFour(a.delta + at), add);
      if (a.bias != nullptr) x[i] = MapFour(x[i], LoadFour(a.bias + col), add);
      StoreFour(a.hidden + at, x[i]);
    }
    sum += x[i].x * x[i].x + x[i].y * x[i].y + (x[i].z * x[i].z + x[i].w * x[i].w);
  }
  const float scale = Scale(a, kBlockRows ? BlockSum(sum) : WarpSum(sum));
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int64_t col = (int64_t{i} * threads + thread) * 4;
    if (col >= a.cols) continue;
    StoreFour(a.out + row * a.cols + col,
              MapFour(x[i], LoadFour(a.weight + col),
                      [&](float value, float weight) { return value * scale * weight; }));
  }
}

// Any row, a block each: lengths that are no multiple of four, or long ones.
__global__ void __launch_bounds__(kThreadsMax) AnyRmsNormKernel(const RmsNormArgs a) {
  const int64_t row = blockIdx.x;
  float* const hidden = a.hidden + row * a.cols;
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x) {
    float x = hidden[i];
    if (a.delta != nullptr) {
      x += a.delta[row * a.cols + i];
      if (a.bias != nullptr) x += a.bias[i];
      hidden[i] = x;
    }
    sum += x * x;
  }
  const float scale = Scale(a, BlockSum(sum));
  for (int64_t i = threadIdx.x; i < a.cols; i += blockDim.x) {
    a.out[row * a.cols + i] = hidden[i] * scale * a.weight[i];
  }
}

template <int kFours>
void LaunchBlocks(const RmsNormArgs& args) {
  const int64_t threads = (args.cols / 4 + kFours - 1) / kFours;
  Launch(RmsNormKernel<kFours, true>,
         {.grid = Blocks(args.rows, 1),
          .block = dim3(static_cast<unsigned>((threads + 31) / 32 * 32)),
          .stream = args.stream},
         args);
}
template <int kFours>
void LaunchWarps(const RmsNormArgs& args) {
  Launch(RmsNormKernel<kFours, false>,
         {.grid = Blocks(args.rows, kWarps),
          .block = dim3(kWarps * kWarpLanes),
          .stream = args.stream},
         args);
}

}  // namespace

void RmsNorm(const RmsNormArgs& args) {
  if (args.rows == 0) return;
  constexpr int64_t kBlock = 4 * kThreadsMax;  // columns of a block that takes four a thread
  if (!InFours(args.cols, args.hidden, args.delta, args.bias, args.weight, args.out) ||
      args.cols > 4 * kBlock) {
    Launch(AnyRmsNormKernel,
           {.grid = Blocks(args.rows, 1), .block = dim3(256), .stream = args.stream}, args);
    return;
  }
  if (args.cols <= 128) return LaunchWarps<1>(args);
  if (args.cols <= 256) return LaunchWarps<2>(args);
  if (args.cols <= kBlock) return LaunchBlocks<1>(args);
  if (args.cols <= 2 * kBlock) return LaunchBlocks<2>(args);
  LaunchBlocks<4>(args);
}

}  // namespace trireme::cuda
