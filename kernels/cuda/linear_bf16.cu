#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_kernels.h"
#include "kernels/cuda/linear_plan.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/split_sums.cuh"
#include "kernels/cuda/warp.cuh"

// Products with row-major weights of 16 bits, for few tokens: the time is that of reading the
// weights once. mma.m16n8k16 as for panels (linear_quant.cuh): of 32 columns, thread (g, q) takes
// the eight columns from 8q on, of weight rows g and g + 8 and of token g: 16 bytes each, from
// memory into registers, the loads of the next step in flight while this one is multiplied. x comes
// from L2, since no two warps of a block read the same columns.

namespace trireme::cuda {
namespace {

template <int kTiling>
struct RowsShape {
  static constexpr LinearTiling kT = kRowsTilings[kTiling];
  static constexpr int kPanels = kT.warp_panels;
  static constexpr int kTiles = kT.token_tiles;
  // A step's columns are divided so that a thread has eight loads of 16 bytes in flight.
  static constexpr int kLoads = 4 / kPanels;  // of 32 columns, each for rows g and g + 8
  static constexpr int kColumns = 32 * kLoads;
  static constexpr int kThreads = 32 * kT.warps();
};

struct RowsWarp {
  int lane;
  int row;  // of the first panel's first row
  ColumnSlice columns;
};

// Eight columns, zeros past the end.
template <bool kAligned>
__device__ inline uint4 LoadEight(const uint16_t* row, int column, int end) {
  if constexpr (kAligned) {
    if (column < end) return *reinterpret_cast<const uint4*>(row + column);
    return uint4{0, 0, 0, 0};
  } else {
    uint32_t words[4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (column + i < end) words[i / 2] |= uint32_t{row[column + i]} << (16 * (i % 2));
    }
    return uint4{words[0], words[1], words[2], words[3]};
  }
}

template <int kTiling, bool kAligned>
__device__ inline void LoadRows(
    const ProductPart& p, const RowsWarp& w, int column,
    uint4 (&to)[RowsShape<kTiling>::kLoads][RowsShape<kTiling>::kPanels][2]) {
  using S = RowsShape<kTiling>;
#pragma unroll
  for (int panel = 0; panel < S::kPanels; ++panel) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Past the last row, that one again: nobody takes its sums.
      int row = w.row + 16 * panel + 8 * half + w.lane / 4;
      row = row < p.rows ? row : p.rows - 1;
      const uint16_t* weights =
          reinterpret_cast<const uint16_t*>(p.weight) + int64_t{row} * p.row_stride;
#pragma unroll
      for (int i = 0; i < S::kLoads; ++i) {
        to[i][panel][half] =
            LoadEight<kAligned>(weights, column + 32 * i + 8 * (w.lane % 4), w.columns.end);
      }
    }
  }
}

template <bool kHalf>
__device__ inline void Mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (kHalf) {
    MmaF16(c, a, b);
  } else {
    MmaBf16(c, a, b);
  }
}

template <bool kHalf, int kTiling>
__device__ inline void MultiplyRows(
    const BlockPlace& place, const ProductsArgs& args, const RowsWarp& w, int column,
    const uint4 (&weights)[RowsShape<kTiling>::kLoads][RowsShape<kTiling>::kPanels][2],
    float (&sums)[RowsShape<kTiling>::kPanels][RowsShape<kTiling>::kTiles][4]) {
  using S = RowsShape<kTiling>;
  uint4 x[S::kLoads][S::kTiles];
#pragma unroll
  for (int tile = 0; tile < S::kTiles; ++tile) {
    // Past the last token, that one again: nobody takes its sums.
    int token = tile * 8 + w.lane / 4;
    token = place.token + (token < place.tokens ? token : place.tokens - 1);
    const auto* row = static_cast<const uint16_t*>(args.x) + int64_t{token} * args.x_stride;
#pragma unroll
    for (int i = 0; i < S::kLoads; ++i) {
      // Rounded rows hold whole 32 columns.
      x[i][tile] =
          LoadEight<true>(row, column + 32 * i + 8 * (w.lane % 4), static_cast<int>(args.x_stride));
    }
  }
#pragma unroll
  for (int i = 0; i < S::kLoads; ++i) {
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
      const uint32_t low[2] = {x[i][tile].x, x[i][tile].y};
      const uint32_t high[2] = {x[i][tile].z, x[i][tile].w};
#pragma unroll
      for (int panel = 0; panel < S::kPanels; ++panel) {
        const uint4& top = weights[i][panel][0];
        const uint4& bottom = weights[i][panel][1];
        const uint32_t a_low[4] = {top.x, bottom.x, top.y, bottom.y};
        const uint32_t a_high[4] = {top.z, bottom.z, top.w, bottom.w};
        Mma<kHalf>(sums[panel][tile], a_low, low);
        Mma<kHalf>(sums[panel][tile], a_high, high);
      }
    }
  }
}

template <bool kHalf, int kTiling, bool kAligned>
__global__ void __launch_bounds__(RowsShape<kTiling>::kThreads)
    RowsProductsKernel(const ProductsArgs args) {
  using S = RowsShape<kTiling>;
  constexpr LinearTiling kT = S::kT;
  const BlockPlace place = FindBlock(args, kT.tokens());
  if (place.tokens <= 0) return;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  RowsWarp w;
  w.lane = static_cast<int>(threadIdx.x) % 32;
  w.row = place.row_block * kT.rows();
  // A block's columns; its warps take turns, so that it reads long pieces of each row.
  w.columns = SliceOf(args.cols, static_cast<int>(kRowsStepColumns) * kT.k_warps, place.split,
                      place.product.splits);

  float sums[S::kPanels][S::kTiles][4] = {};
  uint4 weights[S::kLoads][S::kPanels][2];
  uint4 next[S::kLoads][S::kPanels][2];
  int column = w.columns.begin + warp * S::kColumns;
  constexpr int kStride = kT.k_warps * S::kColumns;
  if (column < w.columns.end) LoadRows<kTiling, kAligned>(place.product, w, column, weights);
  for (; column < w.columns.end; column += kStride) {
    if (column + kStride < w.columns.end) {
      LoadRows<kTiling, kAligned>(place.product, w, column + kStride, next);
    }
    MultiplyRows<kHalf, kTiling>(place, args, w, column, weights, sums);
#pragma unroll
    for (int i = 0; i < S::kLoads; ++i) {
#pragma unroll
      for (int panel = 0; panel < S::kPanels; ++panel) {
        weights[i][panel][0] = next[i][panel][0];
        weights[i][panel][1] = next[i][panel][1];
      }
    }
  }

  float* all = DynamicShared<float>();  // [warp][token][row of the block]
#pragma unroll
  for (int panel = 0; panel < S::kPanels; ++panel) {
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int token = tile * 8 + w.lane % 4 * 2 + c % 2;
        const int row = panel * 16 + w.lane / 4 + c / 2 * 8;
        if (token < place.tokens) {
          all[(warp * place.tokens + token) * kT.rows() + row] = sums[panel][tile][c];
        }
      }
    }
  }
  SyncThreads();
  __shared__ int last;
  FinishSums(place, all, kT.k_warps, kT.rows(), args.tokens, &last);
}

template <bool kHalf, int kTiling, bool kAligned>
void LaunchRows(const ProductsLaunch& launch) {
  constexpr LinearTiling kT = kRowsTilings[kTiling];
  const int tokens = std::min(launch.args.tokens, kT.tokens());
  const size_t floats = static_cast<size_t>(kT.k_warps) * kT.rows() * tokens;
  Launch(RowsProductsKernel<kHalf, kTiling, kAligned>,
         LaunchShape{.grid = dim3(static_cast<unsigned>(launch.blocks),
                                  (launch.args.tokens + kT.tokens() - 1) / kT.tokens()),
                     .block = dim3(32 * kT.warps()),
                     .shared_bytes = floats * sizeof(float),
                     .stream = launch.stream},
         launch.args);
}

template <bool kHalf, int kTiling>
void LaunchRows(const ProductsLaunch& launch) {
  if (launch.aligned) {
    LaunchRows<kHalf, kTiling, true>(launch);
  } else {
    LaunchRows<kHalf, kTiling, false>(launch);
  }
}

template <bool kHalf>
void LaunchRows(const ProductsLaunch& launch) {
  static_assert(std::size(kRowsTilings) == 2);
  if (launch.tiling == 0) {
    LaunchRows<kHalf, 0>(launch);
  } else {
    LaunchRows<kHalf, 1>(launch);
  }
}

}  // namespace

void LaunchRowsProducts(const ProductsLaunch& launch) {
  if (launch.dtype == DType::kF16) {
    LaunchRows<true>(launch);
  } else {
    LaunchRows<false>(launch);
  }
}

}  // namespace trireme::cuda
