#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/cpu/panels.h"
#include "kernels/quant/formats.h"
#include "kernels/quant/packed.h"

// Products with quantised weights. Activations are rounded to eight bits for each 32 columns, as
// llama.cpp does (its Q8_0), so that a block's dot product is one of small integers, exact in any
// order. What is left to order are the blocks' floats: one running sum a row, block by block,
//
//   sum = fma(scale_w * float(integer dot product) [- min_w * sum of the block's activations],
//             scale_x, sum)
//
// the same for any number of tokens and on every instruction set.

namespace trireme::cpu {

// 32 activations of one token: x is about scale * q.
struct ActivationBlock {
  int8_t q[quant::kBlockColumns];
  float scale;
  // For what a format adds to each quant or takes from it, of the whole block and of its halves:
  // minus offset times the sum of q or, with mins, minus the sum, as float.
  union {
    int32_t offset[3];
    float min_sum[3];
  };
};

// Rounds one row of n columns. The largest magnitude becomes 127.
template <class S>
void QuantizeRow(const float* x, int64_t n, DType weight_dtype, ActivationBlock* to) {
  constexpr int kHalf = S::kLanes;
  static_assert(2 * kHalf == quant::kBlockColumns);
  const auto [offset, mins] = quant::WithFormat(
      weight_dtype, [](auto format) { return std::pair(format.kOffset, format.kMins); });
  for (int64_t k = 0; k < n; k += quant::kBlockColumns, ++to) {
    const typename S::V low = S::Load(x + k);
    const typename S::V high = S::Load(x + k + kHalf);
    const float largest = S::ReduceMax(S::Max(S::Abs(low), S::Abs(high)));
    to->scale = largest / 127.0f;
    const typename S::V inverse = S::Set1(largest > 0.0f ? 127.0f / largest : 0.0f);
    const int32_t sum_low = S::StoreInt8(to->q, S::RoundToInteger(S::Mul(low, inverse)));
    const int32_t sum_high = S::StoreInt8(to->q + kHalf, S::RoundToInteger(S::Mul(high, inverse)));
    const int32_t sums[3] = {sum_low + sum_high, sum_low, sum_high};
    for (int i = 0; i < 3; ++i) {
      if (mins) {
        to->min_sum[i] = static_cast<float>(-sums[i]);
      } else {
        to->offset[i] = -offset * sums[i];
      }
    }
  }
}

// A block of several panels at a time in a form that does not depend on the format.
template <class P>
struct WeightBlock {
  quant::Quads<P> quads;
  typename P::V scales[2];
  typename P::V mins[2];
};

// The same in memory, for 16 rows.
struct alignas(64) KeptBlock {
  std::byte quads[quant::kBytePlane];
  float scales[2][quant::kPanelRows];
  float mins[2][quant::kPanelRows];
};

// What a product needs to know of a format.
template <int halves, bool mins, bool small>
struct Traits {
  static constexpr int kHalves = halves;
  static constexpr bool kMins = mins;
  static constexpr bool kSmall = small;
};
template <class F>
using TraitsOf = Traits<F::kHalves, F::kMins, F::kSmall>;

// sum + the block's part of it.
template <class P, class T>
inline typename P::V AddBlock(const WeightBlock<P>& w, const ActivationBlock& x,
                              typename P::V sum) {
  typename P::V value;
  if constexpr (T::kHalves == 1) {
    typename P::Ints dot = T::kMins ? P::SetInts(0) : P::SetInts(x.offset[0]);
    for (int i = 0; i < quant::kQuads; ++i) {
      dot = P::template Dot<T::kSmall>(dot, w.quads[i], P::BroadcastQuad(x.q + 4 * i));
    }
    value = P::Mul(P::ToFloats(dot), w.scales[0]);
    if constexpr (T::kMins) value = P::Fma(w.mins[0], P::Set1(x.min_sum[0]), value);
  } else {
    typename P::Ints low = T::kMins ? P::SetInts(0) : P::SetInts(x.offset[1]);
    typename P::Ints high = T::kMins ? P::SetInts(0) : P::SetInts(x.offset[2]);
    for (int i = 0; i < quant::kQuads / 2; ++i) {
      low = P::template Dot<T::kSmall>(low, w.quads[i], P::BroadcastQuad(x.q + 4 * i));
      high = P::template Dot<T::kSmall>(high, w.quads[i + 4], P::BroadcastQuad(x.q + 4 * i + 16));
    }
    value = P::Mul(P::ToFloats(low), w.scales[0]);
    value = P::Fma(P::ToFloats(high), w.scales[1], value);
    if constexpr (T::kMins) {
      value = P::Fma(w.mins[0], P::Set1(x.min_sum[1]), value);
      value = P::Fma(w.mins[1], P::Set1(x.min_sum[2]), value);
    }
  }
  return P::Fma(value, P::Set1(x.scale), sum);
}

using QuantLinearArgs = PanelArgs<ActivationBlock>;  // x [tokens, blocks]

// Up to so many tokens take weights as they come from memory; for more they are unpacked first.
inline constexpr int64_t kQuantRawTokens = 4;
inline constexpr int64_t kQuantBlocks = 8;  // unpacked at a time
// Bytes ahead of one token's product: about what memory takes to answer, at its own speed.
inline constexpr int64_t kPrefetchAhead = 6144;

// One thread's memory for it.
struct alignas(64) QuantScratch {
  KeptBlock kept[kTilePanels][kQuantBlocks];
  PanelSums sums;
};

// Few tokens: the lanes of P from `lane` on, all columns, straight from the packed units.
template <class P, class F, int kTokens>
inline void RawPanel(const QuantLinearArgs& a, int64_t panel, int lane, int64_t token,
                     float (*sums)[quant::kPanelRows]) {
  using V = typename P::V;
  const quant::PackedLayout& layout = *a.layout;
  const std::byte* data = a.weight + panel * layout.panel_bytes;
  const int64_t span = layout.blocks / a.groups;
  float levels[kTreeLevels][kTokens][P::kLanes];
  const std::byte* unit = data + layout.UnitAt(0);
  int64_t block = 0;
  for (int group = 0; group < a.groups; ++group) {
    V sum[kTokens];
    for (V& s : sum) s = P::Zero();
    for (const int64_t end = block + span; block < end; ++block, unit += F::kUnitBytes) {
      for (int line = 0; line < F::kUnitBytes; line += 64) {
        __builtin_prefetch(unit + kPrefetchAhead + line);
      }
      WeightBlock<P> w;
      F::template GetQuads<P>(unit, lane, w.quads);
      F::template GetScales<P>(unit, data + layout.HeaderAt(block), lane, w.scales, w.mins);
      for (int t = 0; t < kTokens; ++t) {
        const ActivationBlock& x = a.x[(token + t) * layout.blocks + block];
        sum[t] = AddBlock<P, TraitsOf<F>>(w, x, sum[t]);
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      sum[t] = AddToTree(
          group, sum[t], [&](int level) { return P::Load(levels[level][t]); },
          [&](int level, V v) { P::Store(levels[level][t], v); },
          [](V x, V y) { return P::Add(x, y); });
      P::Store(sums[t] + lane, sum[t]);
    }
  }
}

template <class P, class F, int kTokens>
void RawTokens(const QuantLinearArgs& a, int64_t begin, int64_t end, int64_t token) {
  for (int64_t panel = begin; panel < end; ++panel) {
    float sums[kTokens][quant::kPanelRows];
    for (int lane = 0; lane < quant::kPanelRows; lane += P::kLanes) {
      RawPanel<P, F, kTokens>(a, panel, lane, token, sums);
    }
    for (int t = 0; t < kTokens; ++t) PutSums<P>(a, panel, token + t, sums[t]);
  }
}

// Unpacks blocks [block, block + count) of a panel.
template <class P, class F>
inline void KeepBlocks(const QuantLinearArgs& a, int64_t panel, int64_t block, int64_t count,
                       KeptBlock* kept) {
  const quant::PackedLayout& layout = *a.layout;
  const std::byte* data = a.weight + panel * layout.panel_bytes;
  for (int64_t b = 0; b < count; ++b) {
    const std::byte* unit = data + layout.UnitAt(block + b);
    for (int lane = 0; lane < quant::kPanelRows; lane += P::kLanes) {
      WeightBlock<P> w;
      F::template GetQuads<P>(unit, lane, w.quads);
      F::template GetScales<P>(unit, data + layout.HeaderAt(block + b), lane, w.scales, w.mins);
      for (int i = 0; i < quant::kQuads; ++i) {
        P::StoreBytes(kept[b].quads + i * 64 + lane * 4, w.quads[i]);
      }
      for (int half = 0; half < F::kHalves; ++half) {
        P::Store(kept[b].scales[half] + lane, w.scales[half]);
        if constexpr (F::kMins) P::Store(kept[b].mins[half] + lane, w.mins[half]);
      }
    }
  }
}

// kPanels panels' kept blocks and kTokens tokens' activations that a tile multiplies.
struct KeptTileArgs {
  const ActivationBlock* x;  // of the tile's first token and the first block
  int64_t x_stride;          // from token to token
  const KeptBlock (*kept)[kQuantBlocks];
  int lane = 0;
  // What it brings from memory for later, in pieces while it computes: lines from `first_line` in
  // steps of `line_step` bytes of what each block takes of each panel.
  const std::byte* ahead[kTilePanels] = {};
  int64_t unit_bytes;
  int64_t first_line = 0, line_step = 64;
};

// The integer dot products of a block, or of its half `half`.
template <class P, class T, int kTokens, int kPanels>
[[gnu::always_inline]] inline void KeptDots(const KeptTileArgs& a, int64_t b, int half,
                                            typename P::Ints (&dot)[kTokens][kPanels]) {
  constexpr int kCount = quant::kQuads / T::kHalves;
  const int which = T::kHalves == 1 ? 0 : 1 + half;
  for (int t = 0; t < kTokens; ++t) {
    const typename P::Ints start =
        T::kMins ? P::SetInts(0) : P::SetInts(a.x[t * a.x_stride + b].offset[which]);
    for (int p = 0; p < kPanels; ++p) dot[t][p] = start;
  }
  for (int i = half * kCount; i < (half + 1) * kCount; ++i) {
    typename P::Bytes w[kPanels];
    for (int p = 0; p < kPanels; ++p) {
      w[p] = P::LoadBytes(a.kept[p][b].quads + i * 64 + a.lane * 4);
    }
    for (int t = 0; t < kTokens; ++t) {
      const typename P::Bytes quad = P::BroadcastQuad(a.x[t * a.x_stride + b].q + 4 * i);
      for (int p = 0; p < kPanels; ++p)
        dot[t][p] = P::template Dot<T::kSmall>(dot[t][p], w[p], quad);
    }
  }
}

// Adds `count` kept blocks to the running sums of a tile.
template <class P, class T, int kTokens, int kPanels>
inline void KeptTile(const KeptTileArgs& a, int64_t count, int64_t token, PanelSums& sums) {
  using V = typename P::V;
  V sum[kTokens][kPanels];
  for (int t = 0; t < kTokens; ++t) {
    for (int p = 0; p < kPanels; ++p) {
      sum[t][p] = P::Load(sums.sums[p][token + t] + a.lane);
    }
  }
  for (int64_t b = 0; b < count; ++b) {
    for (int64_t line = a.first_line; line < a.unit_bytes; line += a.line_step) {
      for (int p = 0; p < kPanels; ++p) {
        __builtin_prefetch(a.ahead[p] + b * a.unit_bytes + line);
      }
    }
    typename P::Ints dot[kTokens][kPanels];
    V value[kTokens][kPanels];
    KeptDots<P, T, kTokens, kPanels>(a, b, 0, dot);
    for (int p = 0; p < kPanels; ++p) {
      const V scale = P::Load(a.kept[p][b].scales[0] + a.lane);
      for (int t = 0; t < kTokens; ++t) value[t][p] = P::Mul(P::ToFloats(dot[t][p]), scale);
    }
    if constexpr (T::kHalves == 2) {
      KeptDots<P, T, kTokens, kPanels>(a, b, 1, dot);
      for (int p = 0; p < kPanels; ++p) {
        const V scale = P::Load(a.kept[p][b].scales[1] + a.lane);
        for (int t = 0; t < kTokens; ++t) {
          value[t][p] = P::Fma(P::ToFloats(dot[t][p]), scale, value[t][p]);
        }
      }
    }
    for (int p = 0; p < kPanels; ++p) {
      for (int half = 0; T::kMins && half < T::kHalves; ++half) {
        const V min = P::Load(a.kept[p][b].mins[half] + a.lane);
        const int which = T::kHalves == 1 ? 0 : 1 + half;
        for (int t = 0; t < kTokens; ++t) {
          const V min_sum = P::Set1(a.x[t * a.x_stride + b].min_sum[which]);
          value[t][p] = P::Fma(min, min_sum, value[t][p]);
        }
      }
      for (int t = 0; t < kTokens; ++t) {
        sum[t][p] = P::Fma(value[t][p], P::Set1(a.x[t * a.x_stride + b].scale), sum[t][p]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int p = 0; p < kPanels; ++p) {
      P::Store(sums.sums[p][token + t] + a.lane, sum[t][p]);
    }
  }
}

// The tile of `tile_tokens` tokens, 1 to kTokens, from `token` of the token block on.
template <class P, class T, int kTokens, int kPanels>
void KeptTileOf(int64_t tile_tokens, KeptTileArgs tile, int64_t count, int64_t token,
                PanelSums& sums) {
  if constexpr (kTokens > 1) {
    if (tile_tokens < kTokens) {
      return KeptTileOf<P, T, kTokens - 1, kPanels>(tile_tokens, tile, count, token, sums);
    }
  }
  for (tile.lane = 0; tile.lane < quant::kPanelRows; tile.lane += P::kLanes) {
    KeptTile<P, T, kTokens, kPanels>(tile, count, token, sums);
  }
}

// All tokens of the token block, in as few tiles as they take, of sizes as equal as can be: a small
// tile loads as many weights as a large one.
template <class P, class T, int kTokens, int kPanels>
void KeptTiles(KeptTileArgs tile, int64_t count, int64_t tokens, PanelSums& sums) {
  const int64_t tiles = (tokens + kTokens - 1) / kTokens;
  tile.line_step = 64 * tiles;
  int64_t token = 0;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t tile_tokens = (tokens - token) / (tiles - i);
    tile.first_line = 64 * i;
    KeptTileOf<P, T, kTokens, kPanels>(tile_tokens, tile, count, token, sums);
    token += tile_tokens;
    tile.x += tile_tokens * tile.x_stride;
  }
}

// kPanels panels from `panel` on, for a block of tokens.
template <class S, class F, int kPanels>
void KeptPanels(const QuantLinearArgs& a, int64_t panel, int64_t token, int64_t tokens,
                QuantScratch& scratch) {
  using P = typename S::Part;
  const quant::PackedLayout& layout = *a.layout;
  const int64_t span = layout.blocks / a.groups;
  for (int group = 0; group < a.groups; ++group) {
    ClearSums<S>(kPanels, tokens, scratch.sums);
    for (int64_t block = group * span; block < (group + 1) * span; block += kQuantBlocks) {
      const int64_t count = std::min(kQuantBlocks, (group + 1) * span - block);
      for (int p = 0; p < kPanels; ++p) {
        KeepBlocks<P, F>(a, panel + p, block, count, scratch.kept[p]);
      }
      KeptTileArgs tile{.x = a.x + token * layout.blocks + block,
                        .x_stride = layout.blocks,
                        .kept = scratch.kept,
                        .unit_bytes = F::kUnitBytes};
      for (int p = 0; p < kPanels; ++p) {
        tile.ahead[p] =
            a.weight + (panel + p) * layout.panel_bytes + layout.UnitAt(block + kQuantBlocks);
      }
      KeptTiles<P, TraitsOf<F>, S::kQuantTokens, kPanels>(tile, count, tokens, scratch.sums);
    }
    FinishGroup<typename S::Part>(a, group, panel, kPanels, token, tokens, scratch.sums);
  }
}

template <class S, class F>
void QuantLinearOf(const QuantLinearArgs& a, int64_t begin, int64_t end, QuantScratch& scratch) {
  using P = typename S::Part;
  if (a.tokens <= kQuantRawTokens) {
    switch (a.tokens) {
      case 1:
        return RawTokens<P, F, 1>(a, begin, end, 0);
      case 2:
        return RawTokens<P, F, 2>(a, begin, end, 0);
      case 3:
        return RawTokens<P, F, 3>(a, begin, end, 0);
      default:
        return RawTokens<P, F, 4>(a, begin, end, 0);
    }
  }
  for (int64_t token = 0; token < a.tokens; token += kPanelTokens) {
    const int64_t tokens = std::min(kPanelTokens, a.tokens - token);
    int64_t panel = begin;
    for (; panel + kTilePanels <= end; panel += kTilePanels) {
      KeptPanels<S, F, kTilePanels>(a, panel, token, tokens, scratch);
    }
    if (panel < end) KeptPanels<S, F, 1>(a, panel, token, tokens, scratch);
  }
}

// Panels [begin, end).
template <class S>
void QuantLinear(DType dtype, const QuantLinearArgs& a, int64_t begin, int64_t end,
                 QuantScratch& scratch) {
  quant::WithFormat(
      dtype, [&](auto format) { QuantLinearOf<S, decltype(format)>(a, begin, end, scratch); });
}

// One row, widened to floats: scale * quant - min, as the format says.
template <class S>
void WidenQuantRow(DType dtype, const std::byte* weight, const quant::PackedLayout& layout,
                   int64_t row, float* out) {
  using P = typename S::Part;
  const std::byte* data = weight + row / quant::kPanelRows * layout.panel_bytes;
  const int in_panel = static_cast<int>(row % quant::kPanelRows);
  const int first = in_panel / P::kLanes * P::kLanes;
  const int lane = in_panel - first;
  quant::WithFormat(dtype, [&](auto format) {
    using F = decltype(format);
    for (int64_t block = 0; block < layout.blocks; ++block) {
      WeightBlock<P> w;
      const std::byte* unit = data + layout.UnitAt(block);
      F::template GetQuads<P>(unit, first, w.quads);
      F::template GetScales<P>(unit, data + layout.HeaderAt(block), first, w.scales, w.mins);
      float scales[2][P::kLanes];
      float mins[2][P::kLanes];
      for (int half = 0; half < F::kHalves; ++half) {
        P::Store(scales[half], w.scales[half]);
        if constexpr (F::kMins) P::Store(mins[half], w.mins[half]);
      }
      for (int i = 0; i < quant::kQuads; ++i) {
        std::byte quad[4 * P::kLanes];
        P::StoreBytes(quad, w.quads[i]);
        const int half = i * F::kHalves / quant::kQuads;
        for (int c = 0; c < 4; ++c) {
          const int q = static_cast<int>(quad[lane * 4 + c]) - F::kOffset;
          const float value = static_cast<float>(q) * scales[half][lane];
          out[block * quant::kBlockColumns + 4 * i + c] =
              F::kMins ? value - mins[half][lane] : value;
        }
      }
    }
  });
}

}  // namespace trireme::cpu
