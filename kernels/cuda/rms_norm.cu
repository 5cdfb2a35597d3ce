#include "kernels/cuda/launch.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpLanes;

// One block a row. Each thread adds its columns in order, lanes and warps in a tree: one order,
// whatever the other rows are.
__global__ void __launch_bounds__(kThreads) RmsNormKernel(RmsNormArgs a) {
  __shared__ float warp_sums[kWarps];
  const int64_t row = blockIdx.x;
  float* const hidden = a.hidden + row * a.cols;
  const int thread = static_cast<int>(threadIdx.x);
  float sum = 0.0f;
  for (int64_t i = thread; i < a.cols; i += kThreads) {
    float x = hidden[i];
    if (a.delta != nullptr) {
      x += a.delta[row * a.cols + i];
      if (a.bias != nullptr) x += a.bias[i];
      hidden[i] = x;
    }
    sum += x * x;
  }
  sum = WarpSum(sum);
  if (thread % kWarpLanes == 0) warp_sums[thread / kWarpLanes] = sum;
  SyncThreads();
  float total = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) total += warp_sums[warp];
  const float scale = 1.0f / sqrtf(total / static_cast<float>(a.cols) + a.eps);
  for (int64_t i = thread; i < a.cols; i += kThreads) {
    a.out[row * a.cols + i] = hidden[i] * scale * a.weight[i];
  }
}

}  // namespace

void RmsNorm(const RmsNormArgs& args) {
  if (args.rows == 0) return;
  Launch(RmsNormKernel,
         {.grid = dim3(static_cast<unsigned>(args.rows)),
          .block = dim3(kThreads),
          .stream = args.stream},
         args);
}

}  // namespace trireme::cuda
