#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/bf16_pairs.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_kernels.h"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 128;
constexpr float kHalfMax = 65504.0f;

// The column of a row that lies at `at`.
template <ActivationOrder kOrder>
__device__ inline int64_t ColumnAt(int64_t at) {
  if constexpr (kOrder == ActivationOrder::kPlain) return at;
  const int in_block = static_cast<int>(at % 32);
  const int thread = in_block / 8;
  const int half = in_block / 4 % 2;
  const int i = in_block % 4;
  return at - in_block + 16 * half + 4 * thread + (i % 2 * 2 + i / 2);
}

// A thread writes a pair.
template <ActivationOrder kOrder, bool kHalf>
__global__ void __launch_bounds__(kThreads) RoundKernel(const RoundArgs a) {
  const int64_t stride = RoundedStride(a.cols);
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * 2;
  if (at >= stride) return;
  const float* x = a.x + int64_t{blockIdx.y} * a.cols;
  float values[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t column = ColumnAt<kOrder>(at + i);
    values[i] = column < a.cols ? x[column] : 0.0f;
  }
  if constexpr (kHalf) {
    __half* to = static_cast<__half*>(a.out) + int64_t{blockIdx.y} * stride + at;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // Comparisons keep a NaN.
      float value = values[i] > kHalfMax ? kHalfMax : values[i];
      value = value < -kHalfMax ? -kHalfMax : value;
      to[i] = __float2half_rn(value);
    }
  } else {
    uint32_t* to = reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(a.out) +
                                               int64_t{blockIdx.y} * stride + at);
    *to = PairOf(values[0], values[1]);
  }
}

template <ActivationOrder kOrder, bool kHalf>
void LaunchRound(const RoundArgs& args) {
  const int64_t pairs = RoundedStride(args.cols) / 2;
  Launch(RoundKernel<kOrder, kHalf>,
         LaunchShape{.grid = dim3(static_cast<unsigned>((pairs + kThreads - 1) / kThreads),
                                  static_cast<unsigned>(args.tokens)),
                     .block = dim3(kThreads),
                     .stream = args.stream},
         args);
}

}  // namespace

void LaunchRoundActivations(const RoundArgs& args) {
  if (args.order == ActivationOrder::kPanels) {
    LaunchRound<ActivationOrder::kPanels, false>(args);
  } else if (args.to == DType::kF16) {
    LaunchRound<ActivationOrder::kPlain, true>(args);
  } else {
    LaunchRound<ActivationOrder::kPlain, false>(args);
  }
}

}  // namespace trireme::cuda
