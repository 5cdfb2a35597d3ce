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

// Calls f(i) for i from 0 to n - 1, one call behind the other: what it indexes stays in registers.
template <int n, class F>
[[gnu::always_inline]] inline void Unrolled(const F& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) { (f(i), ...); }
  (std::make_integer_sequence<int, n>());
}

// Adds the block's part to the sums of kTokens tokens and kPanels panels. An instruction's result
// is there some cycles later: products of other tokens and panels come in between.
template <class P, class T, int kPanels, int kTokens>
[[gnu::always_inline]] inline void AddBlock(const WeightBlock<P> (&w)[kPanels],
                                            const ActivationBlock* x,
                                            typename P::V(*const (&sums)[kPanels])) {
  using V = typename P::V;
  constexpr int kQuadsOfHalf = quant::kQuads / T::kHalves;
  typename P::Ints dots[T::kHalves][kTokens][kPanels];
  for (int h = 0; h < T::kHalves; ++h) {
    for (int t = 0; t < kTokens; ++t) {
      const int part = T::kHalves == 1 ? 0 : h + 1;
      const auto start = T::kMins ? P::SetInts(0) : P::SetInts(x[t].offset[part]);
      for (int p = 0; p < kPanels; ++p) dots[h][t][p] = start;
    }
  }
  Unrolled<kQuadsOfHalf>([&](int i) __attribute__((always_inline)) {
    for (int h = 0; h < T::kHalves; ++h) {
      const int quad = h * kQuadsOfHalf + i;
      for (int t = 0; t < kTokens; ++t) {
        const auto activations = P::BroadcastQuad(x[t].q + 4 * quad);
        for (int p = 0; p < kPanels; ++p) {
          dots[h][t][p] = P::template Dot<T::kSmall>(dots[h][t][p], w[p].quads[quad], activations);
        }
      }
    }
  });
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
// Of activations that a thread goes through again for each panel: they stay in its cache.
inline constexpr int64_t kActivationBytes = 1 << 18;

// The sums of kPanels panels' rows, the lanes of P from `lane` on, for a tile of kTokens tokens at
// x.
template <class P, class F, int kTokens, int kPanels>
inline void TileLanes(const QuantLinearArgs& a, int64_t panel, int lane, const ActivationBlock* x,
                      bool prefetch, float (*sums)[kTokens][quant::kPanelRows]) {
  using V = typename P::V;
  using T = TraitsOf<F>;
  constexpr int kGroup = TokensAtATime<P, T, kPanels>(kTokens);
  const quant::PackedLayout& layout = *a.layout;
  const std::byte* data = a.weight + panel * layout.panel_bytes;
  const int64_t span = layout.blocks / a.groups;
  float levels[kTreeLevels][kPanels][kTokens][P::kLanes];
  const std::byte* unit = data + layout.UnitAt(0);
  // Units bring units: without these, those that are headers of the next panel would be missing.
  for (const std::byte* header = data; prefetch && header < unit; header += 64) {
    __builtin_prefetch(header + kPrefetchAhead);
  }
  int64_t block = 0;
  for (int group = 0; group < a.groups; ++group) {
    V sum[kPanels][kTokens];
    for (auto& of_panel : sum) {
      for (V& s : of_panel) s = P::Zero();
    }
    for (const int64_t end = block + span; block < end; ++block, unit += F::kUnitBytes) {
      WeightBlock<P> w[kPanels];
      for (int p = 0; p < kPanels; ++p) {
        const int64_t from = p * layout.panel_bytes;
        F::template GetQuads<P>(unit + from, lane, w[p].quads);
        F::template GetScales<P>(unit + from, data + from + layout.HeaderAt(block), lane,
                                 w[p].scales, w[p].mins);
      }
      for (int t = 0; t < kTokens; t += kGroup, x += kGroup) {
        V* of_panels[kPanels];
        for (int p = 0; p < kPanels; ++p) of_panels[p] = sum[p] + t;
        AddBlock<P, T, kPanels, kGroup>(w, x, of_panels);
      }
      // After this block's own loads, which would wait behind these.
      for (int line = 0; prefetch && line < F::kUnitBytes; line += 64) {
        __builtin_prefetch(unit + kPrefetchAhead + line);
      }
    }
    for (int p = 0; p < kPanels; ++p) {
      for (int t = 0; t < kTokens; ++t) {
        const V all = AddToTree(
            group, sum[p][t], [&](int level) { return P::Load(levels[level][p][t]); },
            [&](int level, V v) { P::Store(levels[level][p][t], v); },
            [](V x, V y) { return P::Add(x, y); });
        P::Store(sums[p][t] + lane, all);
      }
    }
  }
}

template <class P, class F, int kTokens, int kPanels = 1>
void TilePanels(const QuantLinearArgs& a, int64_t panel, const TokenTile& tile, bool prefetch) {
  float sums[kPanels][kTokens][quant::kPanelRows];
  const ActivationBlock* x = a.x + tile.first * a.layout->blocks;
  for (int lane = 0; lane < quant::kPanelRows; lane += P::kLanes) {
    TileLanes<P, F, kTokens, kPanels>(a, panel, lane, x, prefetch, sums);
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int64_t t = 0; t < tile.tokens; ++t) {
      PutSums<P>(a, panel + p, tile.first + t, sums[p][t]);
    }
  }
}

template <class P, class F>
void AnyTilePanel(const QuantLinearArgs& a, int64_t panel, const TokenTile& tile, bool prefetch) {
  switch (tile.width) {
    case 1:
      return TilePanels<P, F, 1>(a, panel, tile, prefetch);
    case 2:
      return TilePanels<P, F, 2>(a, panel, tile, prefetch);
    case 3:
      return TilePanels<P, F, 3>(a, panel, tile, prefetch);
    case 4:
      return TilePanels<P, F, 4>(a, panel, tile, prefetch);
    case 6:
      return TilePanels<P, F, 6>(a, panel, tile, prefetch);
    case 8:
      return TilePanels<P, F, 8>(a, panel, tile, prefetch);
    case 12:
      return TilePanels<P, F, 12>(a, panel, tile, prefetch);
    default:
      return TilePanels<P, F, kQuantTileTokens>(a, panel, tile, prefetch);
  }
}

template <class P, class F>
void QuantLinearOf(const QuantLinearArgs& a, int64_t begin, int64_t end) {
  const int64_t tile_bytes = a.layout->blocks * kQuantTileTokens * int64_t{sizeof(ActivationBlock)};
  const int64_t tokens = std::max<int64_t>(1, kActivationBytes / tile_bytes) * kQuantTileTokens;
  for (int64_t first = 0; first < a.tokens; first += tokens) {
    const int64_t last = std::min(first + tokens, a.tokens);
    int64_t panel = begin;
    // Where arithmetic is the limit, two panels share what is loaded of the activations; memory
    // gives one stream faster.
    if constexpr (P::kQuantPanels == 2) {
      for (; last - first >= 2 * kQuantTileTokens && panel + 2 <= end; panel += 2) {
        int64_t t = first;
        for (; t + kQuantTileTokens <= last; t += kQuantTileTokens) {
          TilePanels<P, F, kQuantTileTokens, 2>(a, panel, TileOf(t, a.tokens), t == first);
        }
        if (t == last) continue;
        for (int p = 0; p < 2; ++p) AnyTilePanel<P, F>(a, panel + p, TileOf(t, a.tokens), false);
      }
    }
    for (; panel < end; ++panel) {
      for (int64_t t = first; t < last; t += kQuantTileTokens) {
        AnyTilePanel<P, F>(a, panel, TileOf(t, a.tokens), t == first);
      }
    }
  }
}

// Panels [begin, end).
template <class S>
void QuantLinear(DType dtype, const QuantLinearArgs& a, int64_t begin, int64_t end) {
  quant::WithFormat(dtype, [&](auto format) {
    QuantLinearOf<typename S::Part, decltype(format)>(a, begin, end);
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
