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

using QuantLinearArgs = PanelArgs<ActivationBlock>;  // x in tiles

// Bytes ahead of a product: about what memory takes to answer, at its own speed.
inline constexpr int64_t kPrefetchAhead = 6144;
// Of activations that a thread goes through again for each panel: they stay in its cache.
inline constexpr int64_t kActivationBytes = 1 << 18;

// The sums of a panel's rows, the lanes of P from `lane` on, for a tile of kTokens tokens at x.
template <class P, class F, int kTokens>
inline void TileLanes(const QuantLinearArgs& a, int64_t panel, int lane, const ActivationBlock* x,
                      bool prefetch, float (*sums)[quant::kPanelRows]) {
  using V = typename P::V;
  const quant::PackedLayout& layout = *a.layout;
  const std::byte* data = a.weight + panel * layout.panel_bytes;
  const int64_t span = layout.blocks / a.groups;
  float levels[kTreeLevels][kTokens][P::kLanes];
  const std::byte* unit = data + layout.UnitAt(0);
  // Units bring units: without these, those that are headers of the next panel would be missing.
  for (const std::byte* header = data; prefetch && header < unit; header += 64) {
    __builtin_prefetch(header + kPrefetchAhead);
  }
  int64_t block = 0;
  for (int group = 0; group < a.groups; ++group) {
    V sum[kTokens];
    for (V& s : sum) s = P::Zero();
    for (const int64_t end = block + span; block < end; ++block, unit += F::kUnitBytes) {
      WeightBlock<P> w;
      F::template GetQuads<P>(unit, lane, w.quads);
      F::template GetScales<P>(unit, data + layout.HeaderAt(block), lane, w.scales, w.mins);
      for (int t = 0; t < kTokens; ++t, ++x) sum[t] = AddBlock<P, TraitsOf<F>>(w, *x, sum[t]);
      // After this block's own loads, which would wait behind these.
      for (int line = 0; prefetch && line < F::kUnitBytes; line += 64) {
        __builtin_prefetch(unit + kPrefetchAhead + line);
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

template <class P, class F>
void QuantLinearOf(const QuantLinearArgs& a, int64_t begin, int64_t end) {
  const int64_t tile_bytes = a.layout->blocks * kQuantTileTokens * int64_t{sizeof(ActivationBlock)};
  const int64_t tokens = std::max<int64_t>(1, kActivationBytes / tile_bytes) * kQuantTileTokens;
  for (int64_t first = 0; first < a.tokens; first += tokens) {
    for (int64_t panel = begin; panel < end; ++panel) {
      for (int64_t t = first; t < std::min(first + tokens, a.tokens); t += kQuantTileTokens) {
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
