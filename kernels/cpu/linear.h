#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/rows.h"
#include "kernels/tensor.h"

namespace trireme::cpu {

// A product of several tokens walks blocks of tokens, of weight rows, of columns, and in these,
// tiles that fit the registers. A block of x stays in the second-level cache, a tile's weights,
// widened to float, in the first; running sums go to memory and back between blocks of columns,
// which leaves their bits alone.
inline constexpr int64_t kLinearTokenBlock = 64;
inline constexpr int64_t kLinearRowBlock = 24;  // a multiple of every variant's kTileRows
inline constexpr int64_t kLinearColumnBlock = 512;
// Elements of x that stay in the second-level cache whole.
inline constexpr int64_t kLinearSmallBlock = 1 << 16;
// From one kept row to the next: not a power of two, lest rows fight for cache sets.
inline constexpr int64_t kLinearKeptStride = kLinearColumnBlock + 16;
// Up to so many tokens use weights as they are; widening them first does not pay.
inline constexpr int64_t kLinearRawTokens = 4;
inline constexpr int kLinearGroupsMax = 8;
inline constexpr int kLinearTileRowsMax = 6;

// One thread's memory for it.
struct alignas(64) LinearScratch {
  float weights[kLinearTileRowsMax * kLinearKeptStride];
  float lanes[kLinearTokenBlock * kLinearRowBlock][16];
  float partial[kLinearGroupsMax][kLinearTokenBlock * kLinearRowBlock];
};

// y[t, n] = x[t, :] . weight[n, :], for weight rows [row_begin, row_end).
struct LinearArgs {
  const float* x;  // [tokens, cols] in PackActivations' order
  int64_t tokens;
  Weight weight;           // [rows, cols]
  const float* bias;       // [rows], or null
  int groups;              // a power of two that divides cols
  float* y;                // [tokens, rows]
  LinearScratch* scratch;  // unused if tokens == 1
};

// Calls f(column, count) for the blocks of columns, which do not cross groups.
template <class F>
inline void ForColumnBlocks(int64_t cols, int groups, F f) {
  const int64_t span = cols / groups;
  for (int64_t column = 0; column < cols;) {
    const int64_t count = std::min(kLinearColumnBlock, span - column % span);
    f(column, count);
    column += count;
  }
}

// Token `t`'s row of x in block order: of each block of columns, all tokens' rows side by side.
// Rows a power of two apart would share few cache sets.
template <class S>
void PackActivations(const float* row, int64_t t, int64_t tokens, const Weight& weight, int groups,
                     float* packed) {
  ForColumnBlocks(weight.cols, groups, [&](int64_t column, int64_t count) {
    const float* from = row + column;
    float* to = packed + tokens * column + t * count;
    ForEachVector<S>(count, [&](int64_t i, int n) { S::Store(to + i, S::Load(from + i, n), n); });
  });
}

// The sum of `groups` values `stride` apart, in a binary tree.
inline float TreeSum(float* values, int64_t stride, int groups) {
  for (int width = 1; width < groups; width *= 2) {
    for (int g = 0; g < groups; g += 2 * width) values[g * stride] += values[(g + width) * stride];
  }
  return values[0];
}

// One token: kRows weight rows as they come from memory, all columns in equal groups.
template <class S, class Rows, int kRows>
inline void SingleTile(const LinearArgs& a, int64_t row) {
  const auto* w =
      static_cast<const typename Rows::Element*>(a.weight.data) + row * a.weight.row_stride;
  const int64_t span = a.weight.cols / a.groups;
  float partial[kRows][kLinearGroupsMax];
  for (int g = 0; g < a.groups; ++g) {
    typename S::V sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = S::Zero();
    const int64_t end = (g + 1) * span;
    int64_t k = g * span;
    for (; k + S::kLanes <= end; k += S::kLanes) {
      const typename S::V x = S::Load(a.x + k);
      for (int r = 0; r < kRows; ++r) {
        sum[r] = S::Fma(x, Rows::Load(w + r * a.weight.row_stride + k), sum[r]);
      }
    }
    if (const int tail = static_cast<int>(end - k); tail > 0) {
      const typename S::V x = S::Load(a.x + k, tail);
      for (int r = 0; r < kRows; ++r) {
        sum[r] = S::Fma(x, Rows::Load(w + r * a.weight.row_stride + k, tail), sum[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) partial[r][g] = S::ReduceAdd(sum[r]);
  }
  for (int r = 0; r < kRows; ++r) {
    const float sum = TreeSum(partial[r], 1, a.groups);
    a.y[row + r] = a.bias == nullptr ? sum : sum + a.bias[row + r];
  }
}

template <class S, class Rows>
void LinearSingle(const LinearArgs& a, int64_t row_begin, int64_t row_end) {
  int64_t row = row_begin;
  for (; row + S::kTileRowsSingle <= row_end; row += S::kTileRowsSingle) {
    SingleTile<S, Rows, S::kTileRowsSingle>(a, row);
  }
  for (; row < row_end; ++row) SingleTile<S, Rows, 1>(a, row);
}

// A block of columns of a block of rows and tokens.
struct LinearBlock {
  const float* x;  // [tokens, cols]
  int64_t tokens;
  int64_t cols;  // at most kLinearColumnBlock
  bool first;    // of its group of columns: the sums start at zero
  bool last;     // of its group, and no tail: each tile's sums are complete
  int64_t group;
  LinearScratch* scratch;
};

// Adds the block's columns, but for a tail of less than sixteen, to the running sums of kTokens x
// kRows dot products: kParts parts of their lanes, from `part` on. With kKeep, leaves the widened
// weights in the scratch.
template <class S, template <class> class Rows, int kTokens, int kRows, int kParts, bool kKeep>
inline void TilePass(const LinearBlock& b, int64_t token, const typename Rows<S>::Element* w,
                     int64_t w_stride, int64_t row, int part, int kept_row = 0) {
  using P = typename S::Part;
  const float* x = b.x + token * b.cols + part * P::kLanes;
  float* kept = b.scratch->weights + kept_row * kLinearKeptStride + part * P::kLanes;
  float* to = b.scratch->lanes[token * kLinearRowBlock + row] + part * P::kLanes;
  // The same loads whether the sums start or go on: a branch would make them live in memory.
  static constexpr float kZeros[16] = {};
  const float* from = b.first ? kZeros : to;
  const int64_t from_lanes = b.first ? 0 : 16;
  typename P::V sum[kTokens][kRows][kParts];
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < kParts; ++p) {
        sum[t][r][p] = P::Load(from + (t * kLinearRowBlock + r) * from_lanes + p * P::kLanes);
      }
    }
  }
  for (int64_t k = 0; k + S::kLanes <= b.cols; k += S::kLanes) {
    for (int p = 0; p < kParts; ++p) {
      typename P::V xv[kTokens];
      for (int t = 0; t < kTokens; ++t) xv[t] = P::Load(x + t * b.cols + k + p * P::kLanes);
      for (int r = 0; r < kRows; ++r) {
        typename P::V wv = Rows<P>::Load(w + r * w_stride + k + (part + p) * P::kLanes);
        P::Hold(wv);
        if constexpr (kKeep) P::Store(kept + r * kLinearKeptStride + k + p * P::kLanes, wv);
        for (int t = 0; t < kTokens; ++t) sum[t][r][p] = P::Fma(xv[t], wv, sum[t][r][p]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < kParts; ++p) {
        P::Store(to + (t * kLinearRowBlock + r) * 16 + p * P::kLanes, sum[t][r][p]);
      }
    }
  }
}

// The block's last n columns, fewer than sixteen, for all its tokens and `rows` rows.
template <class S, template <class> class Rows>
[[gnu::noinline]] void TailColumns(const LinearBlock& b, const typename Rows<S>::Element* w,
                                   int64_t w_stride, int64_t rows, int n) {
  const int64_t k = b.cols - n;
  for (int64_t r = 0; r < rows; ++r) {
    const typename S::V wv = Rows<S>::Load(w + r * w_stride + k, n);
    for (int64_t t = 0; t < b.tokens; ++t) {
      float* lanes = b.scratch->lanes[t * kLinearRowBlock + r];
      const typename S::V xv = S::Load(b.x + t * b.cols + k, n);
      S::Store(lanes, S::Fma(xv, wv, S::Load(lanes)));
    }
  }
}

// The group's sums of a tile, from its lanes.
template <class S, template <class> class Rows>
inline void ReduceLanes(const LinearBlock& b, int64_t token, int64_t tokens, int64_t row,
                        int64_t rows) {
  for (int64_t t = token; t < token + tokens; ++t) {
    const int64_t at = t * kLinearRowBlock + row;
    for (int64_t i = at; i < at + rows; ++i) {
      b.scratch->partial[b.group][i] = S::ReduceAdd(S::Load(b.scratch->lanes[i]));
    }
  }
}

// Weights as they come from memory, read once: all parts together, hence fewer rows at a time where
// all of them do not fit the registers.
template <class S, template <class> class Rows, int kTokens, int kRows, bool kKeep>
inline void RawTile(const LinearBlock& b, int64_t token, const typename Rows<S>::Element* w,
                    int64_t w_stride, int64_t row) {
  constexpr int kParts = S::kLanes / S::Part::kLanes;
  constexpr bool kFits = kTokens * kRows * kParts <= S::kTileTokens * S::kTileRows;
  constexpr int kFewer = kFits || kRows % kParts != 0 ? kRows : kRows / kParts;
  for (int r = 0; r < kRows; r += kFewer) {
    TilePass<S, Rows, kTokens, kFewer, kParts, kKeep>(b, token, w + r * w_stride, w_stride, row + r,
                                                      0, r);
  }
  if (b.last) ReduceLanes<S, Rows>(b, token, kTokens, row, kRows);
}

// Widened weights: the parts in turn where a tile of one part fills the registers.
template <class S, template <class> class Rows, int kTokens, int kRows>
inline void KeptTile(const LinearBlock& b, int64_t token, int64_t row) {
  constexpr int kParts = S::kLanes / S::Part::kLanes;
  constexpr bool kFull = 2 * kTokens * kRows > S::kTileTokens * S::kTileRows;
  constexpr int kTogether = kFull ? 1 : kParts;
  for (int part = 0; part < kParts; part += kTogether) {
    TilePass<S, F32Rows, kTokens, kRows, kTogether, false>(b, token, b.scratch->weights,
                                                           kLinearKeptStride, row, part);
  }
  if (b.last) ReduceLanes<S, Rows>(b, token, kTokens, row, kRows);
}

// Tokens from `token` on of kRows rows whose weights are in the scratch.
template <class S, template <class> class Rows, int kTokens, int kRows>
inline void KeptTiles(const LinearBlock& b, int64_t token, int64_t row) {
  for (; token + kTokens <= b.tokens; token += kTokens) {
    KeptTile<S, Rows, kTokens, kRows>(b, token, row);
  }
  if constexpr (kTokens > 1) KeptTiles<S, Rows, kTokens - 1, kRows>(b, token, row);
}

// Tokens from `token` on of kRows rows whose weights come from memory.
template <class S, template <class> class Rows, int kTokens, int kRows>
inline void RawTiles(const LinearBlock& b, const typename Rows<S>::Element* w, int64_t w_stride,
                     int64_t token, int64_t row) {
  for (; token + kTokens <= b.tokens; token += kTokens) {
    RawTile<S, Rows, kTokens, kRows, false>(b, token, w, w_stride, row);
  }
  if constexpr (kTokens > 1) {
    RawTiles<S, Rows, kTokens - 1, kRows>(b, w, w_stride, token, row);
  }
}

// kRows rows of the block. For many tokens, the first ones, as many as leave whole tiles, widen the
// weights on their way from memory for the others.
template <class S, template <class> class Rows, int kTokens, int kRows>
inline void TileRows(const LinearBlock& b, const typename Rows<S>::Element* w, int64_t w_stride,
                     int64_t row) {
  if (b.tokens <= kLinearRawTokens) {
    return RawTiles<S, Rows, S::kTileTokens, kRows>(b, w, w_stride, 0, row);
  }
  if constexpr (kTokens > 1) {
    if (b.tokens % S::kTileTokens != kTokens % S::kTileTokens) {
      return TileRows<S, Rows, kTokens - 1, kRows>(b, w, w_stride, row);
    }
  }
  RawTile<S, Rows, kTokens, kRows, true>(b, 0, w, w_stride, row);
  KeptTiles<S, Rows, S::kTileTokens, kRows>(b, kTokens, row);
}

// Rows [row_begin, row_end), at most kLinearRowBlock, of tokens [token_begin, token_end).
template <class S, template <class> class Rows>
void LinearRows(const LinearArgs& a, int64_t row_begin, int64_t row_end, int64_t token_begin,
                int64_t token_end) {
  const int64_t rows = row_end - row_begin;
  const int64_t stride = a.weight.row_stride;
  const auto* w = static_cast<const typename Rows<S>::Element*>(a.weight.data) + row_begin * stride;
  LinearBlock b{.x = nullptr,
                .tokens = token_end - token_begin,
                .cols = 0,
                .first = true,
                .last = false,
                .group = 0,
                .scratch = a.scratch};
  const int64_t span = a.weight.cols / a.groups;
  ForColumnBlocks(a.weight.cols, a.groups, [&](int64_t column, int64_t count) {
    b.x = a.x + a.tokens * column + token_begin * count;
    b.cols = count;
    const int tail = static_cast<int>(count % S::kLanes);
    const bool whole = (column + count) % span == 0;
    b.first = column % span == 0;
    b.last = whole && tail == 0;
    b.group = column / span;
    int64_t row = 0;
    for (; row + S::kTileRows <= rows; row += S::kTileRows) {
      TileRows<S, Rows, S::kTileTokens, S::kTileRows>(b, w + row * stride + column, stride, row);
    }
    for (; row < rows; ++row) {
      TileRows<S, Rows, S::kTileTokens, 1>(b, w + row * stride + column, stride, row);
    }
    if (tail > 0) {
      TailColumns<S, Rows>(b, w + column, stride, rows, tail);
      if (whole) ReduceLanes<S, Rows>(b, 0, b.tokens, 0, rows);
    }
  });
  for (int64_t t = 0; t < b.tokens; ++t) {
    float* y = a.y + (token_begin + t) * a.weight.rows + row_begin;
    for (int64_t r = 0; r < rows; ++r) {
      const float sum = TreeSum(a.scratch->partial[0] + t * kLinearRowBlock + r,
                                kLinearTokenBlock * kLinearRowBlock, a.groups);
      y[r] = a.bias == nullptr ? sum : sum + a.bias[row_begin + r];
    }
  }
}

template <class S, template <class> class Rows>
void LinearOfType(const LinearArgs& a, int64_t row_begin, int64_t row_end) {
  static_assert(S::kTileRows <= kLinearTileRowsMax && kLinearRowBlock % S::kTileRows == 0);
  if (a.tokens == 1) return LinearSingle<S, Rows<S>>(a, row_begin, row_end);
  for (int64_t token = 0; token < a.tokens; token += kLinearTokenBlock) {
    const int64_t token_end = std::min(token + kLinearTokenBlock, a.tokens);
    // Rows read from end to end come fastest from memory, as long as x stays in the cache.
    const bool small = (token_end - token) * a.weight.cols <= kLinearSmallBlock;
    const int64_t step = small ? S::kTileRows : kLinearRowBlock;
    for (int64_t row = row_begin; row < row_end; row += step) {
      LinearRows<S, Rows>(a, row, std::min(row + step, row_end), token, token_end);
    }
  }
}

template <class S>
void Linear(const LinearArgs& a, int64_t row_begin, int64_t row_end) {
  switch (a.weight.dtype) {
    case DType::kF32:
      return LinearOfType<S, F32Rows>(a, row_begin, row_end);
    case DType::kF16:
      return LinearOfType<S, F16Rows>(a, row_begin, row_end);
    default:
      return;
  }
}

// Widens a row of n elements to floats.
template <class S, class Rows>
inline void WidenElements(const typename Rows::Element* w, int64_t n, float* out) {
  ForEachVector<S>(
      n, [&](int64_t i, int count) { S::Store(out + i, Rows::Load(w + i, count), count); });
}

// Widens one row of a weight matrix to floats.
template <class S>
void WidenRow(const Weight& weight, int64_t row, float* out) {
  const int64_t offset = row * weight.row_stride;
  const auto* halves = static_cast<const uint16_t*>(weight.data) + offset;
  switch (weight.dtype) {
    case DType::kF32:
      return WidenElements<S, F32Rows<S>>(static_cast<const float*>(weight.data) + offset,
                                          weight.cols, out);
    case DType::kF16:
      return WidenElements<S, F16Rows<S>>(halves, weight.cols, out);
    case DType::kBF16:
      return WidenElements<S, Bf16Rows<S>>(halves, weight.cols, out);
    default:
      return;
  }
}

}  // namespace trireme::cpu
