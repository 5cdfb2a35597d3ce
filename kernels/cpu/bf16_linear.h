#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/bfloat16.h"
#include "kernels/cpu/denormals.h"
#include "kernels/cpu/panels.h"

// Products with bfloat16 weights. Activations are rounded to bfloat16 as well (nearest, ties to
// even), and pairs of columns are multiplied and added as the instruction VDPBF16PS does (Intel
// SDM):
//
//   sum = fma(w[k + 1], x[k + 1], sum); sum = fma(w[k], x[k], sum)    for k = 0, 2, 4, ...
//
// where denormals count as zero. Elsewhere two fused multiply-adds compute the same bits.

namespace trireme::cpu {

using Bf16LinearArgs =
    PanelArgs<uint32_t>;  // x [tokens, blocks]: pairs of bfloat16, the even below

inline constexpr int64_t kBf16Columns = 2;   // of a block
inline constexpr int64_t kBf16Blocks = 128;  // that a tile takes at a time, so that they stay in L1

// Rounds one row of n columns to pairs.
template <class S>
void RoundRow(const float* x, int64_t n, uint32_t* pairs) {
  const auto round = [](float value) { return uint32_t{RoundToBf16(value)}; };
  for (int64_t i = 0; i < n / 2; ++i) pairs[i] = round(x[2 * i]) | (round(x[2 * i + 1]) << 16);
  if (n % 2 != 0) pairs[n / 2] = round(x[n - 1]);
}

// Adds `count` blocks to the running sums of kTokens tokens and kPanels panels. `w` is the first
// panel's first block, `x` the first token's.
template <class P, int kTokens, int kPanels>
inline void Bf16Tile(const uint32_t* x, int64_t x_stride, const std::byte* w, int64_t panel_bytes,
                     int64_t count, int lane, int64_t token, PanelSums& sums) {
  typename P::V sum[kTokens][kPanels];
  for (int t = 0; t < kTokens; ++t) {
    for (int p = 0; p < kPanels; ++p) {
      sum[t][p] = P::Load(sums.sums[p][token + t] + lane);
    }
  }
  for (int64_t b = 0; b < count; ++b) {
    typename P::Bf16Pairs pairs[kPanels];
    for (int p = 0; p < kPanels; ++p) {
      pairs[p] = P::LoadBf16Pairs(w + p * panel_bytes + b * 64 + lane * 4);
      // The first tile brings what the next call multiplies.
      if (token == 0) __builtin_prefetch(w + p * panel_bytes + b * 64 + kBf16Blocks * 64);
    }
    for (int t = 0; t < kTokens; ++t) {
      const typename P::Bf16Pairs activations = P::BroadcastBf16Pair(x[t * x_stride + b]);
      for (int p = 0; p < kPanels; ++p) {
        sum[t][p] = P::DotBf16(sum[t][p], pairs[p], activations);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int p = 0; p < kPanels; ++p) {
      P::Store(sums.sums[p][token + t] + lane, sum[t][p]);
    }
  }
}

// Tokens [token, tokens) of the token block; `x` is its first token's.
template <class P, int kTokens, int kPanels>
void Bf16Tiles(const uint32_t* x, int64_t x_stride, const std::byte* w, int64_t panel_bytes,
               int64_t count, PanelSums& sums, int64_t token, int64_t tokens) {
  for (; token + kTokens <= tokens; token += kTokens) {
    for (int lane = 0; lane < quant::kPanelRows; lane += P::kLanes) {
      Bf16Tile<P, kTokens, kPanels>(x + token * x_stride, x_stride, w, panel_bytes, count, lane,
                                    token, sums);
    }
  }
  if constexpr (kTokens > 1) {
    Bf16Tiles<P, kTokens / 2, kPanels>(x, x_stride, w, panel_bytes, count, sums, token, tokens);
  }
}

template <class S, int kPanels>
void Bf16Panels(const Bf16LinearArgs& a, int64_t panel, int64_t token, int64_t tokens,
                PanelSums& sums) {
  const quant::PackedLayout& layout = *a.layout;
  const int64_t span = layout.blocks / a.groups;
  const std::byte* data = a.weight + panel * layout.panel_bytes;
  for (int group = 0; group < a.groups; ++group) {
    ClearSums<S>(kPanels, tokens, sums);
    for (int64_t block = group * span; block < (group + 1) * span; block += kBf16Blocks) {
      const int64_t count = std::min(kBf16Blocks, (group + 1) * span - block);
      Bf16Tiles<typename S::Part, S::kBf16Tokens, kPanels>(
          a.x + token * layout.blocks + block, layout.blocks, data + layout.UnitAt(block),
          layout.panel_bytes, count, sums, 0, tokens);
    }
    FinishGroup<typename S::Part>(a, group, panel, kPanels, token, tokens, sums);
  }
}

// Panels [begin, end).
template <class S>
void Bf16Linear(const Bf16LinearArgs& a, int64_t begin, int64_t end, PanelSums& sums) {
  const DenormalsAreZero guard;
  for (int64_t token = 0; token < a.tokens; token += kPanelTokens) {
    const int64_t tokens = std::min(kPanelTokens, a.tokens - token);
    int64_t panel = begin;
    // For one token one panel at a time: memory gives one stream faster than two.
    for (; tokens > 1 && panel + kTilePanels <= end; panel += kTilePanels) {
      Bf16Panels<S, kTilePanels>(a, panel, token, tokens, sums);
    }
    for (; panel < end; ++panel) Bf16Panels<S, 1>(a, panel, token, tokens, sums);
  }
}

// One row, widened to floats.
template <class S>
void WidenBf16Row(const std::byte* weight, const quant::PackedLayout& layout, int64_t row,
                  float* out) {
  const std::byte* data =
      weight + row / quant::kPanelRows * layout.panel_bytes + row % quant::kPanelRows * 4;
  for (int64_t k = 0; k < layout.cols; ++k) {
    const uint32_t pair = quant::LoadWord(data + k / 2 * 64);
    out[k] = std::bit_cast<float>(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
  }
}

}  // namespace trireme::cpu
