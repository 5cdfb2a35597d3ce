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

// A tile of a product's tokens, of which each block of weights is read but once. Activations lie
// tile after tile, in a tile block after block, in a block token after token: a product reads them
// from end to end. The last tile is as wide as one that there is code for; what the tokens hold by
// which it is wider does not matter, if they are finite.
inline constexpr int64_t kQuantTileTokens = 16;
struct TokenTile {
  int64_t first;   // token
  int64_t tokens;  // of the tile
  int64_t width;
};
constexpr TokenTile TileOf(int64_t token, int64_t tokens) {
  const int64_t first = token / kQuantTileTokens * kQuantTileTokens;
  const int64_t count = std::min(kQuantTileTokens, tokens - first);
  for (const int64_t width : {1, 2, 3, 4, 6, 8, 12}) {
    if (count <= width) return {first, count, width};
  }
  return {first, count, kQuantTileTokens};
}

// Rounds one row of n columns to blocks that are `stride` apart. The largest magnitude becomes 127.
template <class S>
void QuantizeRow(const float* x, int64_t n, DType weight_dtype, ActivationBlock* to,
                 int64_t stride) {
  constexpr int kHalf = S::kLanes;
  static_assert(2 * kHalf == quant::kBlockColumns);
  const auto [offset, mins] = quant::WithFormat(
      weight_dtype, [](auto format) { return std::pair(format.kOffset, format.kMins); });
  for (int64_t k = 0; k < n; k += quant::kBlockColumns, to += stride) {
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

// A block of a panel in a form that does not depend on the format.
template <class P>
struct WeightBlock {
  quant::Quads<P> quads;
  typename P::V scales[2];
  typename P::V mins[2];
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

// Adds the products of quads `quad` and, with halves, their like in the other half, and of those
// behind them. Recursive, so that what it indexes is in registers.
template <class P, class T, int quad, int kPanels, int kTokens>
[[gnu::always_inline]] inline void DotQuads(
    const WeightBlock<P> (&w)[kPanels], const ActivationBlock* x,
    typename P::Ints (&dots)[T::kHalves][kTokens][kPanels]) {
  constexpr int kQuadsOfHalf = quant::kQuads / T::kHalves;
  if constexpr (quad < kQuadsOfHalf) {
    for (int h = 0; h < T::kHalves; ++h) {
      const int at = h * kQuadsOfHalf + quad;
      for (int t = 0; t < kTokens; ++t) {
        const auto activations = P::BroadcastQuad(x[t].q + 4 * at);
        for (int p = 0; p < kPanels; ++p) {
          dots[h][t][p] = P::template Dot<T::kSmall>(dots[h][t][p], w[p].quads[at], activations);
        }
      }
    }
    DotQuads<P, T, quad + 1>(w, x, dots);
  }
}

// Adds the block's part to the sums of kTokens tokens and kPanels panels. An instruction's result
// is there some cycles later: products of other tokens and panels come in between.
template <class P, class T, int kPanels, int kTokens>
[[gnu::always_inline]] inline void AddBlock(const WeightBlock<P> (&w)[kPanels],
                                            const ActivationBlock* x,
                                            typename P::V(*const (&sums)[kPanels])) {
  using V = typename P::V;
  typename P::Ints dots[T::kHalves][kTokens][kPanels];
  for (int h = 0; h < T::kHalves; ++h) {
    for (int t = 0; t < kTokens; ++t) {
      const int part = T::kHalves == 1 ? 0 : h + 1;
      const auto start = T::kMins ? P::SetInts(0) : P::SetInts(x[t].offset[part]);
      for (int p = 0; p < kPanels; ++p) dots[h][t][p] = start;
    }
  }
  DotQuads<P, T, 0>(w, x, dots);
  for (int t = 0; t < kTokens; ++t) {
    for (int p = 0; p < kPanels; ++p) {
      V value = P::Mul(P::ToFloats(dots[0][t][p]), w[p].scales[0]);
      if constexpr (T::kHalves == 2) {
        value = P::Fma(P::ToFloats(dots[1][t][p]), w[p].scales[1], value);
      }
      if constexpr (T::kMins) {
        for (int h = 0; h < T::kHalves; ++h) {
          const int part = T::kHalves == 1 ? 0 : h + 1;
          value = P::Fma(w[p].mins[h], P::Set1(x[t].min_sum[part]), value);
        }
      }
      sums[p][t] = P::Fma(value, P::Set1(x[t].scale), sums[p][t]);
    }
  }
}

// How many of a tile's tokens AddBlock takes at a time: as many sums of products as the registers
// hold beside the weights, and no rest.
template <class P, class T, int kPanels>
constexpr int TokensAtATime(int tokens) {
  int group = std::max(1, P::kQuantSums / (kPanels * T::kHalves));
  while (tokens % group != 0) --group;
  return group;
}

using QuantLinearArgs = PanelArgs<ActivationBlock>;  // x in tiles

// Bytes ahead of a product: about what memory takes to answer, at its own speed.
inline constexpr int64_t kPrefetchAhead = 6144;
// Of activations that a thread goes through again for each panel, or two: they stay in its cache.
inline constexpr int64_t kActivationBytes = 1 << 18;
inline constexpr int64_t kSharedActivationBytes = 3 << 18;
// That two panels take at a time for all tiles, so that they stay in L1.
inline constexpr int64_t kQuantBlocks = 16;

// Adds blocks [begin, end) of kPanels panels, the lanes of P from `lane` on, to the sums of a
// tile's kTokens tokens, whose first block of these is at x.
template <class P, class F, int kPanels, int kTokens>
[[gnu::always_inline]] inline void AddBlocks(const QuantLinearArgs& a, int64_t panel, int lane,
                                             int64_t begin, int64_t end, const ActivationBlock* x,
                                             bool prefetch,
                                             typename P::V (&sums)[kPanels][kTokens]) {
  using T = TraitsOf<F>;
  constexpr int kGroup = TokensAtATime<P, T, kPanels>(kTokens);
  const quant::PackedLayout& layout = *a.layout;
  const std::byte* data = a.weight + panel * layout.panel_bytes;
  const std::byte* unit = data + layout.UnitAt(begin);
  for (int64_t block = begin; block < end; ++block, unit += F::kUnitBytes) {
    WeightBlock<P> w[kPanels];
    for (int p = 0; p < kPanels; ++p) {
      const int64_t from = p * layout.panel_bytes;
      F::template GetQuads<P>(unit + from, lane, w[p].quads);
      F::template GetScales<P>(unit + from, data + from + layout.HeaderAt(block), lane, w[p].scales,
                               w[p].mins);
    }
    for (int t = 0; t < kTokens; t += kGroup, x += kGroup) {
      typename P::V* of_panels[kPanels];
      for (int p = 0; p < kPanels; ++p) of_panels[p] = sums[p] + t;
      AddBlock<P, T, kPanels, kGroup>(w, x, of_panels);
    }
    // After this block's own loads, which would wait behind these.
    for (int64_t p = 0; prefetch && p < kPanels; ++p) {
      for (int line = 0; line < F::kUnitBytes; line += 64) {
        __builtin_prefetch(unit + p * layout.panel_bytes + kPrefetchAhead + line);
      }
    }
  }
}

// The sums of a panel's rows, the lanes of P from `lane` on, for a tile of kTokens tokens at x.
template <class P, class F, int kTokens>
inline void TileLanes(const QuantLinearArgs& a, int64_t panel, int lane, const ActivationBlock* x,
                      bool prefetch, float (*sums)[quant::kPanelRows]) {
  using V = typename P::V;
  const quant::PackedLayout& layout = *a.layout;
  const std::byte* data = a.weight + panel * layout.panel_bytes;
  const int64_t span = layout.blocks / a.groups;
  float levels[kTreeLevels][kTokens][P::kLanes];
  // Units bring units: without these, those that are headers of the next panel would be missing.
  const std::byte* const unit = data + layout.UnitAt(0);
  for (const std::byte* header = data; prefetch && header < unit; header += 64) {
    __builtin_prefetch(header + kPrefetchAhead);
  }
  for (int group = 0; group < a.groups; ++group, x += span * kTokens) {
    V sum[1][kTokens];
    for (V& s : sum[0]) s = P::Zero();
    AddBlocks<P, F>(a, panel, lane, group * span, (group + 1) * span, x, prefetch, sum);
    for (int t = 0; t < kTokens; ++t) {
      const V all = AddToTree(
          group, sum[0][t], [&](int level) { return P::Load(levels[level][t]); },
          [&](int level, V v) { P::Store(levels[level][t], v); },
          [](V x, V y) { return P::Add(x, y); });
      P::Store(sums[t] + lane, all);
    }
  }
}

template <class P, class F, int kTokens>
void TilePanel(const QuantLinearArgs& a, int64_t panel, const TokenTile& tile, bool prefetch) {
  float sums[kTokens][quant::kPanelRows];
  const ActivationBlock* x = a.x + tile.first * a.layout->blocks;
  for (int lane = 0; lane < quant::kPanelRows; lane += P::kLanes) {
    TileLanes<P, F, kTokens>(a, panel, lane, x, prefetch, sums);
  }
  for (int64_t t = 0; t < tile.tokens; ++t) PutSums<P>(a, panel, tile.first + t, sums[t]);
}

template <class P, class F>
void AnyTilePanel(const QuantLinearArgs& a, int64_t panel, const TokenTile& tile, bool prefetch) {
  switch (tile.width) {
    case 1:
      return TilePanel<P, F, 1>(a, panel, tile, prefetch);
    case 2:
      return TilePanel<P, F, 2>(a, panel, tile, prefetch);
    case 3:
      return TilePanel<P, F, 3>(a, panel, tile, prefetch);
    case 4:
      return TilePanel<P, F, 4>(a, panel, tile, prefetch);
    case 6:
      return TilePanel<P, F, 6>(a, panel, tile, prefetch);
    case 8:
      return TilePanel<P, F, 8>(a, panel, tile, prefetch);
    case 12:
      return TilePanel<P, F, 12>(a, panel, tile, prefetch);
    default:
      return TilePanel<P, F, kQuantTileTokens>(a, panel, tile, prefetch);
  }
}

// Tokens [first, last) of panels [begin, end).
template <class P, class F>
void OnePanelTiles(const QuantLinearArgs& a, int64_t begin, int64_t end, int64_t first,
                   int64_t last) {
  for (int64_t panel = begin; panel < end; ++panel) {
    for (int64_t t = first; t < last; t += kQuantTileTokens) {
      AnyTilePanel<P, F>(a, panel, TileOf(t, a.tokens), t == first);
    }
  }
}

// Adds blocks [begin, end) of two panels to the running sums of a whole tile.
template <class P, class F>
void TwoPanelTile(const QuantLinearArgs& a, int64_t panel, int64_t begin, int64_t end,
                  const ActivationBlock* x, bool prefetch, int64_t token, PanelSums& s) {
  typename P::V sums[2][kQuantTileTokens];
  for (int p = 0; p < 2; ++p) {
    for (int t = 0; t < kQuantTileTokens; ++t) sums[p][t] = P::Load(s.sums[p][token + t]);
  }
  AddBlocks<P, F>(a, panel, /*lane=*/0, begin, end, x, prefetch, sums);
  for (int p = 0; p < 2; ++p) {
    for (int t = 0; t < kQuantTileTokens; ++t) P::Store(s.sums[p][token + t], sums[p][t]);
  }
}

// Whole tiles of tokens [first, last), at most kPanelTokens, of panels `panel` and the next.
template <class P, class F>
void TwoPanelTiles(const QuantLinearArgs& a, int64_t panel, int64_t first, int64_t last,
                   PanelSums& s) {
  const int64_t tokens = last - first;
  const int64_t span = a.layout->blocks / a.groups;
  for (int group = 0; group < a.groups; ++group) {
    ClearSums<P>(2, tokens, s);
    const int64_t group_end = (group + 1) * span;
    for (int64_t block = group * span; block < group_end; block += kQuantBlocks) {
      const int64_t block_end = std::min(block + kQuantBlocks, group_end);
      for (int64_t t = 0; t < tokens; t += kQuantTileTokens) {
        const ActivationBlock* x = a.x + (first + t) * a.layout->blocks + block * kQuantTileTokens;
        TwoPanelTile<P, F>(a, panel, block, block_end, x, t == 0, t, s);
      }
    }
    FinishGroup<P>(a, group, panel, /*panels=*/2, first, tokens, s);
  }
}

// Where arithmetic is the limit, two panels share what is loaded of the activations; memory gives
// one stream faster.
template <class P, class F>
void QuantLinearOf(const QuantLinearArgs& a, int64_t begin, int64_t end, PanelSums& sums) {
  const int64_t tile_bytes = a.layout->blocks * kQuantTileTokens * int64_t{sizeof(ActivationBlock)};
  const auto tokens_in = [&](int64_t bytes) {
    return std::max<int64_t>(1, bytes / tile_bytes) * kQuantTileTokens;
  };
  int64_t first = 0;
  if constexpr (P::kQuantPanels == 2) {
    const int64_t whole = a.tokens / kQuantTileTokens * kQuantTileTokens;
    const int64_t step = std::min(kPanelTokens, tokens_in(kSharedActivationBytes));
    for (; whole >= 2 * kQuantTileTokens && first < whole; first += step) {
      const int64_t last = std::min(first + step, whole);
      int64_t panel = begin;
      for (; panel + 2 <= end; panel += 2) TwoPanelTiles<P, F>(a, panel, first, last, sums);
      OnePanelTiles<P, F>(a, panel, end, first, last);
    }
    first = std::min(first, whole);
  }
  for (const int64_t step = tokens_in(kActivationBytes); first < a.tokens; first += step) {
    OnePanelTiles<P, F>(a, begin, end, first, std::min(first + step, a.tokens));
  }
}

// Panels [begin, end).
template <class S>
void QuantLinear(DType dtype, const QuantLinearArgs& a, int64_t begin, int64_t end,
                 PanelSums& sums) {
  quant::WithFormat(dtype, [&](auto format) {
    QuantLinearOf<typename S::Part, decltype(format)>(a, begin, end, sums);
  });
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
