#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_kernels.h"
#include "kernels/cuda/linear_plan.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/one_lane.cuh"
#include "kernels/cuda/split_sums.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/host_device.h"
#include "kernels/quant/planes.h"

// Products with quantised weights straight from their panels (kernels/quant/packed.h), for few
// tokens: the time is that of reading the weights once.
//
// A unit, 16 rows x 32 columns, is two A operands of mma.m16n8k16: thread (g, q) of a warp needs
// four columns of the rows g and g + 8 for each. A sum does not care in what order columns come, so
// the thread takes the quads q and q + 4 as they lie, and x is stored in the same order
// (ActivationOrder::kPanels). Quants become bfloat16 exactly; scales multiply the sums of a
// block of 32 (or 16) columns in float32. A format's mins are multiplied with the sums of x, which
// a product with ones gives in just the place where they are needed.
//
// Weights and x come by asynchronous copies through a ring of stages in shared memory. A panel is
// read from end to end, so a stage's part of it is one range of bytes (two with headers).

namespace trireme::cuda {

inline constexpr int kStageUnits = static_cast<int>(kPanelStepColumns) / quant::kBlockColumns;
inline constexpr int kStages = 4;

// Of blocks on a multiprocessor, for the compiler's choice of registers.
inline constexpr int kBlocksMin = 2;

template <class F>
struct QuantStage {
  static constexpr int kUnits = kStageUnits * F::kUnitBytes;
  // A stage may begin in one super-block and end in the next.
  static constexpr int kBytes = kUnits + 2 * F::kHeaderBytes;
  static_assert(F::kUnitBytes % 16 == 0 && F::kHeaderBytes % 16 == 0);
};

// Shared memory: for each stage the panels of all warps, then x of all groups.
template <class F>
TRIREME_HOST_DEVICE constexpr int QuantStageBytes(const LinearTiling& t, int tokens) {
  return t.warps() * t.warp_panels * QuantStage<F>::kBytes + t.k_warps * kStageUnits * tokens * 64;
}

// What a warp works on.
struct QuantWarp {
  int lane;
  int panel_warp;
  int group;
  int panel;  // first of the matrix's
  int panels;
  ColumnSlice blocks;  // of 32 columns
};

// A warp's copy of `bytes` out of at most kBytes, 16 bytes a lane at a time.
template <int kBytes>
__device__ inline void CopyRange(std::byte* to, const std::byte* from, int bytes, int lane) {
#pragma unroll
  for (int i = 0; i < (kBytes + 511) / 512; ++i) {
    const int at = (i * 32 + lane) * 16;
    if (at < bytes) CopyAsync16(to + at, from + at);
  }
}

// Starts the copies of step `step` into `stage`.
template <class F, int kTiling>
__device__ inline void LoadStage(const BlockPlace& place, const ProductsArgs& args,
                                 const QuantWarp& w, int step, std::byte* stage) {
  constexpr LinearTiling kT = kPanelTilings[kTiling];
  const ProductPart& p = place.product;
  const int begin = w.blocks.begin + step * kStageUnits;
  const int count = w.blocks.end - begin < kStageUnits ? w.blocks.end - begin : kStageUnits;
  if (count <= 0) return;
  for (int i = 0; i < kT.warp_panels; ++i) {
    if (i >= w.panels) break;
    const std::byte* panel = p.weight + (w.panel + i) * p.panel_bytes;
    std::byte* to = stage + ((w.group * kT.panel_warps + w.panel_warp) * kT.warp_panels + i) *
                                QuantStage<F>::kBytes;
    const std::byte* units = panel + p.units_at + int64_t{begin} * F::kUnitBytes;
    CopyRange<QuantStage<F>::kUnits>(to, units, count * F::kUnitBytes, w.lane);
    if constexpr (F::kHeaderBytes > 0) {
      const int first = (p.block_offset + begin) / 8;
      const int last = (p.block_offset + begin + count - 1) / 8;
      const std::byte* headers = panel + int64_t{first} * F::kHeaderBytes;
      CopyRange<2 * F::kHeaderBytes>(to + QuantStage<F>::kUnits, headers,
                                     (last - first + 1) * F::kHeaderBytes, w.lane);
    }
  }
  // x: a token's blocks are together in memory, a block's tokens in the stage, so that eight tokens
  // are read without bank conflicts.
  constexpr int kChunks = kStageUnits * 4;
  constexpr int kThreads = kT.panel_warps * 32;
  std::byte* to = stage + kT.warps() * kT.warp_panels * QuantStage<F>::kBytes +
                  w.group * kStageUnits * place.tokens * 64;
  const int thread = w.panel_warp * 32 + w.lane;
  const int chunk = thread % kChunks;
  if (chunk >= count * 4) return;
  const auto* x = static_cast<const std::byte*>(args.x) + begin * 64 + chunk * 16;
  constexpr int kTokensAtOnce = kThreads / kChunks;
#pragma unroll
  for (int i = 0; i < kT.tokens() / kTokensAtOnce; ++i) {
    const int token = thread / kChunks + i * kTokensAtOnce;
    if (token >= place.tokens) break;
    CopyAsync16(to + (chunk / 4 * place.tokens + token) * 64 + chunk % 4 * 16,
                x + int64_t{place.token + token} * args.x_stride * 2);
  }
}

// A unit of a panel in a thread's registers.
template <class F>
struct UnitOperand {
  uint32_t a[2][4];             // of the two products of 16 columns
  float scales[F::kHalves][2];  // of rows g and g + 8
  float mins[F::kHalves][2];
};

template <class F>
__device__ inline void LoadUnit(const std::byte* unit, const std::byte* header, int lane,
                                UnitOperand<F>& to) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = lane / 4 + 8 * i;
    quant::Quads<OneLane> quads;
    F::template GetQuads<OneLane>(unit, row + quant::kPanelRows * (lane % 4), quads);
    QuadToPairs<F>(quads[0], to.a[0][i], to.a[0][i + 2]);
    QuadToPairs<F>(quads[4], to.a[1][i], to.a[1][i + 2]);
    float scales[2];
    float mins[2];
    F::template GetScales<OneLane>(unit, header, row, scales, mins);
#pragma unroll
    for (int half = 0; half < F::kHalves; ++half) {
      to.scales[half][i] = scales[half];
      if constexpr (F::kMins) to.mins[half][i] = mins[half];
    }
  }
}

// sums += the product of a unit and a tile of eight tokens. sums: rows g and g + 8, each of tokens
// 2q and 2q + 1.
template <class F>
__device__ inline void AddUnit(const UnitOperand<F>& w, const uint32_t (&x)[4],
                               const float (&x_sums)[F::kHalves][4], float (&sums)[4]) {
  const uint32_t low[2] = {x[0], x[1]};
  const uint32_t high[2] = {x[2], x[3]};
  float dot[F::kHalves][4] = {};
  MmaBf16(dot[0], w.a[0], low);
  MmaBf16(dot[F::kHalves - 1], w.a[1], high);
#pragma unroll
  for (int half = 0; half < F::kHalves; ++half) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[i] = fmaf(dot[half][i], w.scales[half][i / 2], sums[i]);
      if constexpr (F::kMins) sums[i] = fmaf(-w.mins[half][i / 2], x_sums[half][i], sums[i]);
    }
  }
}

// The sums of x over a block or its halves, for tokens 2q and 2q + 1 (twice).
template <class F>
__device__ inline void SumTokens(const uint32_t (&x)[4], float (&x_sums)[F::kHalves][4]) {
  if constexpr (F::kMins) {
    constexpr uint32_t kOnes = 0x3f803f80;
    const uint32_t ones[4] = {kOnes, kOnes, kOnes, kOnes};
    const uint32_t low[2] = {x[0], x[1]};
    const uint32_t high[2] = {x[2], x[3]};
#pragma unroll
    for (auto& half : x_sums) {
#pragma unroll
      for (float& sum : half) sum = 0.0f;
    }
    MmaBf16(x_sums[0], ones, low);
    MmaBf16(x_sums[F::kHalves - 1], ones, high);
  }
}

// Adds a loaded stage.
template <class F, int kTiling>
__device__ inline void MultiplyStage(
    const BlockPlace& place, const QuantWarp& w, int step, const std::byte* stage,
    float (&sums)[kPanelTilings[kTiling].warp_panels][kPanelTilings[kTiling].token_tiles][4]) {
  constexpr LinearTiling kT = kPanelTilings[kTiling];
  const int begin = w.blocks.begin + step * kStageUnits;
  const int count = w.blocks.end - begin < kStageUnits ? w.blocks.end - begin : kStageUnits;
  const std::byte* panels =
      stage + (w.group * kT.panel_warps + w.panel_warp) * kT.warp_panels * QuantStage<F>::kBytes;
  const std::byte* x = stage + kT.warps() * kT.warp_panels * QuantStage<F>::kBytes +
                       w.group * kStageUnits * place.tokens * 64;
  const int offset = place.product.block_offset;
  [[maybe_unused]] constexpr int kUnroll = kT.token_tiles <= 2 ? kStageUnits : 1;
#pragma unroll kUnroll
  for (int u = 0; u < kStageUnits; ++u) {
    if (u >= count) break;
    UnitOperand<F> operand[kT.warp_panels];
#pragma unroll
    for (int i = 0; i < kT.warp_panels; ++i) {
      const std::byte* panel = panels + i * QuantStage<F>::kBytes;
      const int header = F::kHeaderBytes == 0 ? 0 : (offset + begin + u) / 8 - (offset + begin) / 8;
      LoadUnit<F>(panel + u * F::kUnitBytes,
                  panel + QuantStage<F>::kUnits + header * F::kHeaderBytes, w.lane, operand[i]);
    }
#pragma unroll
    for (int tile = 0; tile < kT.token_tiles; ++tile) {
      // There may be fewer tokens: the last one again, whose sums nobody takes.
      int token = tile * 8 + w.lane / 4;
      token = token < place.tokens ? token : place.tokens - 1;
      const uint4 four =
          *reinterpret_cast<const uint4*>(x + (u * place.tokens + token) * 64 + w.lane % 4 * 16);
      const uint32_t words[4] = {four.x, four.y, four.z, four.w};
      float x_sums[F::kHalves][4];
      SumTokens<F>(words, x_sums);
#pragma unroll
      for (int i = 0; i < kT.warp_panels; ++i) AddUnit<F>(operand[i], words, x_sums, sums[i][tile]);
    }
  }
}

template <class F, int kTiling>
__global__ void __launch_bounds__(32 * kPanelTilings[kTiling].warps(), kBlocksMin)
    QuantProductsKernel(const ProductsArgs args) {
  constexpr LinearTiling kT = kPanelTilings[kTiling];
  const BlockPlace place = FindBlock(args, kT.tokens());
  if (place.tokens <= 0) return;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  QuantWarp w;
  w.lane = static_cast<int>(threadIdx.x) % 32;
  w.panel_warp = warp % kT.panel_warps;
  w.group = warp / kT.panel_warps;
  w.panel = (place.row_block * kT.panel_warps + w.panel_warp) * kT.warp_panels;
  const int panels = (place.product.rows + quant::kPanelRows - 1) / quant::kPanelRows - w.panel;
  w.panels = panels < kT.warp_panels ? panels : kT.warp_panels;
  w.blocks = SliceOf(args.cols / quant::kBlockColumns, kStageUnits,
                     place.split * kT.k_warps + w.group, place.product.splits * kT.k_warps);

  std::byte* shared = DynamicShared<std::byte>();
  const int stage_bytes = QuantStageBytes<F>(kT, place.tokens);
  float sums[kT.warp_panels][kT.token_tiles][4] = {};
  for (int step = 0; step < kStages - 1; ++step) {
    LoadStage<F, kTiling>(place, args, w, step, shared + step * stage_bytes);
    CommitCopies();
  }
  for (int step = 0; step < w.blocks.step_count; ++step) {
    WaitCopies<kStages - 2>();
    SyncThreads();  // this stage is here for all, and nobody reads the one before it any more
    const int ahead = step + kStages - 1;
    LoadStage<F, kTiling>(place, args, w, ahead, shared + ahead % kStages * stage_bytes);
    CommitCopies();
    if (w.panels > 0) {
      MultiplyStage<F, kTiling>(place, w, step, shared + step % kStages * stage_bytes, sums);
    }
  }
  WaitCopies<0>();
  SyncThreads();

  // [group][token][row of the block]
  float* all = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int i = 0; i < kT.warp_panels; ++i) {
#pragma unroll
    for (int tile = 0; tile < kT.token_tiles; ++tile) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int token = tile * 8 + w.lane % 4 * 2 + c % 2;
        const int row =
            (w.panel_warp * kT.warp_panels + i) * quant::kPanelRows + w.lane / 4 + c / 2 * 8;
        if (token < place.tokens) {
          all[(w.group * place.tokens + token) * kT.rows() + row] = sums[i][tile][c];
        }
      }
    }
  }
  SyncThreads();
  __shared__ int last;
  FinishSums(place, all, kT.k_warps, kT.rows(), args.tokens, &last);
}

// Launches a format's products, with the tiling of index `launch.tiling`.
template <class F, int kTiling = 0>
void LaunchQuantProductsOf(const ProductsLaunch& launch) {
  if constexpr (kTiling + 1 < static_cast<int>(std::size(kPanelTilings))) {
    if (launch.tiling != kTiling) return LaunchQuantProductsOf<F, kTiling + 1>(launch);
  }
  constexpr LinearTiling kT = kPanelTilings[kTiling];
  const int tokens = std::min(launch.args.tokens, kT.tokens());
  const int ring = kStages * QuantStageBytes<F>(kT, tokens);
  const int sums = kT.k_warps * kT.rows() * tokens * static_cast<int>(sizeof(float));
  Launch(
      QuantProductsKernel<F, kTiling>,
      LaunchShape{.grid = dim3(launch.blocks, (launch.args.tokens + kT.tokens() - 1) / kT.tokens()),
                  .block = dim3(32 * kT.warps()),
                  .shared_bytes = static_cast<size_t>(std::max(ring, sums)),
                  .stream = launch.stream},
      launch.args);
}

}  // namespace trireme::cuda
