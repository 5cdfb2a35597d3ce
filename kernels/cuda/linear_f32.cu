#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_kernels.h"
#include "kernels/cuda/linear_plan.h"
#include "kernels/cuda/split_sums.cuh"
#include "kernels/cuda/warp.cuh"

// Products with float32 weights, in float32 throughout, for few tokens: routers and small models,
// not the bulk of a large one. A warp takes kWarpRows rows and all tokens; a lane every 32nd piece
// of four columns.

namespace trireme::cuda {
namespace {

constexpr int kWarpRows = 4;
constexpr int kWarps = kF32Rows / kWarpRows;
constexpr int kTokens = static_cast<int>(kRowsTokensMaxF32);

template <bool kAligned>
__device__ inline float4 LoadFour(const float* row, int column, int end) {
  if constexpr (kAligned) {
    return *reinterpret_cast<const float4*>(row + column);
  } else {
    const auto at = [&](int i) { return column + i < end ? row[column + i] : 0.0f; };
    return float4{at(0), at(1), at(2), at(3)};
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(32 * kWarps) F32ProductsKernel(const ProductsArgs args) {
  const BlockPlace place = FindBlock(args, kTokens);
  if (place.tokens <= 0) return;
  const ProductPart& p = place.product;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = place.row_block * kF32Rows + static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  float sums[kWarpRows][kTokens] = {};
  for (int column = lane * 4; column < args.cols; column += 32 * 4) {
    float4 weights[kWarpRows];
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i) {
      const int row = first + i < p.rows ? first + i : p.rows - 1;
      weights[i] =
          LoadFour<kAligned>(reinterpret_cast<const float*>(p.weight) + int64_t{row} * p.row_stride,
                             column, args.cols);
    }
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      if (token >= place.tokens) break;
      const float4 x = LoadFour<kAligned>(
          static_cast<const float*>(args.x) + int64_t{place.token + token} * args.x_stride, column,
          args.cols);
#pragma unroll
      for (int i = 0; i < kWarpRows; ++i) {
        float& sum = sums[i][token];
        sum = fmaf(weights[i].x, x.x, sum);
        sum = fmaf(weights[i].y, x.y, sum);
        sum = fmaf(weights[i].z, x.z, sum);
        sum = fmaf(weights[i].w, x.w, sum);
      }
    }
  }
#pragma unroll
  for (int token = 0; token < kTokens; ++token) {
    if (token >= place.tokens) break;
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i) {
      const float sum = WarpSum(sums[i][token]);
      const int row = first + i;
      if (lane == 0 && row < p.rows) {
        p.y[int64_t{place.token + token} * p.rows + row] =
            p.bias == nullptr ? sum : sum + p.bias[row];
      }
    }
  }
}

}  // namespace

void LaunchF32Products(const ProductsLaunch& launch) {
  Launch(launch.aligned ? F32ProductsKernel<true> : F32ProductsKernel<false>,
         LaunchShape{.grid = dim3(static_cast<unsigned>(launch.blocks),
                                  (launch.args.tokens + kTokens - 1) / kTokens),
                     .block = dim3(32 * kWarps),
                     .stream = launch.stream},
         launch.args);
}

}  // namespace trireme::cuda
