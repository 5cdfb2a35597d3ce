#pragma once

#include <cstdint>

#include "kernels/cpu/rows.h"
#include "kernels/tensor.h"

namespace trireme::cpu {

// y[t, n] = x[t, :] . weight[n, :], for weight rows [row_begin, row_end).
struct LinearArgs {
  const float* x;  // [tokens, cols]
  int64_t tokens;
  Weight weight;      // [rows, cols]
  const float* bias;  // [rows], or null
  int groups;         // a power of two that divides cols
  float* y;           // [tokens, rows]
  float* scratch;     // kTileRows rows of cols floats, this thread's own
};

inline constexpr int kLinearGroupsMax = 8;
// From so many tokens on, weight rows are widened to float once and used for many tokens.
inline constexpr int64_t kLinearWidenTokens = 8;
// Tokens whose activations stay in the second-level cache while weight rows stream past them.
inline constexpr int64_t kLinearTokenBlock = 32;
// Rows of scratch: at least every variant's kTileRows.
inline constexpr int kLinearScratchRows = 4;

// Dot products of kTokens rows of x with kRows rows of w over columns [begin, end): one accumulator
// of sixteen lanes for each, whatever the tile's shape, so the tile's shape never shows in the
// bits.
template <class S, class Rows, int kTokens, int kRows>
inline void DotTile(const float* x, int64_t x_stride, const typename Rows::Element* w,
                    int64_t w_stride, int64_t begin, int64_t end, float out[kTokens][kRows]) {
  typename S::V sum[kTokens][kRows];
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) sum[t][r] = S::Zero();
  }
  int64_t k = begin;
  for (; k + S::kLanes <= end; k += S::kLanes) {
    typename S::V xv[kTokens];
    for (int t = 0; t < kTokens; ++t) xv[t] = S::Load(x + t * x_stride + k);
    for (int r = 0; r < kRows; ++r) {
      const typename S::V wv = Rows::Load(w + r * w_stride + k);
      for (int t = 0; t < kTokens; ++t) sum[t][r] = S::Fma(xv[t], wv, sum[t][r]);
    }
  }
  if (const int tail = static_cast<int>(end - k); tail > 0) {
    for (int r = 0; r < kRows; ++r) {
      const typename S::V wv = Rows::Load(w + r * w_stride + k, tail);
      for (int t = 0; t < kTokens; ++t) {
        sum[t][r] = S::Fma(S::Load(x + t * x_stride + k, tail), wv, sum[t][r]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) out[t][r] = S::ReduceAdd(sum[t][r]);
  }
}

// One tile of y: the columns in equal groups, their sums added in a binary tree, then the bias.
template <class S, class Rows, int kTokens, int kRows>
inline void LinearTile(const LinearArgs& a, int64_t token, const typename Rows::Element* w,
                       int64_t w_stride, int64_t row) {
  const float* x = a.x + token * a.weight.cols;
  const int64_t span = a.weight.cols / a.groups;
  float partial[kLinearGroupsMax][kTokens][kRows];
  for (int g = 0; g < a.groups; ++g) {
    DotTile<S, Rows, kTokens, kRows>(x, a.weight.cols, w, w_stride, g * span, (g + 1) * span,
                                     partial[g]);
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) {
      for (int width = 1; width < a.groups; width *= 2) {
        for (int g = 0; g < a.groups; g += 2 * width) partial[g][t][r] += partial[g + width][t][r];
      }
      const float sum = partial[0][t][r];
      a.y[(token + t) * a.weight.rows + row + r] = a.bias == nullptr ? sum : sum + a.bias[row + r];
    }
  }
}

// kRows weight rows against tokens [begin, end).
template <class S, class Rows, int kRows>
inline void LinearRows(const LinearArgs& a, int64_t begin, int64_t end,
                       const typename Rows::Element* w, int64_t w_stride, int64_t row) {
  int64_t t = begin;
  for (; t + S::kTileTokens <= end; t += S::kTileTokens) {
    LinearTile<S, Rows, S::kTileTokens, kRows>(a, t, w, w_stride, row);
  }
  for (; t < end; ++t) LinearTile<S, Rows, 1, kRows>(a, t, w, w_stride, row);
}

template <class S, class Rows, int kRows>
inline void WidenRows(const typename Rows::Element* w, int64_t w_stride, int64_t cols,
                      float* scratch) {
  for (int r = 0; r < kRows; ++r) {
    int64_t k = 0;
    for (; k + S::kLanes <= cols; k += S::kLanes) {
      S::Store(scratch + r * cols + k, Rows::Load(w + r * w_stride + k));
    }
    if (const int tail = static_cast<int>(cols - k); tail > 0) {
      S::Store(scratch + r * cols + k, Rows::Load(w + r * w_stride + k, tail), tail);
    }
  }
}

template <class S, class Rows, int kRows>
inline void LinearBlock(const LinearArgs& a, int64_t begin, int64_t end, int64_t row) {
  const auto* w =
      static_cast<const typename Rows::Element*>(a.weight.data) + row * a.weight.row_stride;
  if (end - begin >= kLinearWidenTokens) {
    WidenRows<S, Rows, kRows>(w, a.weight.row_stride, a.weight.cols, a.scratch);
    LinearRows<S, F32Rows<S>, kRows>(a, begin, end, a.scratch, a.weight.cols, row);
  } else {
    LinearRows<S, Rows, kRows>(a, begin, end, w, a.weight.row_stride, row);
  }
}

template <class S, class Rows>
void LinearOfType(const LinearArgs& a, int64_t row_begin, int64_t row_end) {
  if (a.tokens == 1) {
    const auto* w = static_cast<const typename Rows::Element*>(a.weight.data);
    const int64_t stride = a.weight.row_stride;
    int64_t row = row_begin;
    for (; row + S::kTileRowsSingle <= row_end; row += S::kTileRowsSingle) {
      LinearTile<S, Rows, 1, S::kTileRowsSingle>(a, 0, w + row * stride, stride, row);
    }
    for (; row < row_end; ++row) LinearTile<S, Rows, 1, 1>(a, 0, w + row * stride, stride, row);
    return;
  }
  for (int64_t begin = 0; begin < a.tokens; begin += kLinearTokenBlock) {
    const int64_t end = begin + kLinearTokenBlock < a.tokens ? begin + kLinearTokenBlock : a.tokens;
    int64_t row = row_begin;
    for (; row + S::kTileRows <= row_end; row += S::kTileRows) {
      LinearBlock<S, Rows, S::kTileRows>(a, begin, end, row);
    }
    for (; row < row_end; ++row) LinearBlock<S, Rows, 1>(a, begin, end, row);
  }
}

template <class S>
void Linear(const LinearArgs& a, int64_t row_begin, int64_t row_end) {
  static_assert(S::kTileRows <= kLinearScratchRows);
  switch (a.weight.dtype) {
    case DType::kF32:
      return LinearOfType<S, F32Rows<S>>(a, row_begin, row_end);
    case DType::kF16:
      return LinearOfType<S, F16Rows<S>>(a, row_begin, row_end);
    case DType::kBF16:
      return LinearOfType<S, Bf16Rows<S>>(a, row_begin, row_end);
  }
}

// Widens one row of a weight matrix to floats.
template <class S>
void WidenRow(const Weight& weight, int64_t row, float* out) {
  const int64_t offset = row * weight.row_stride;
  switch (weight.dtype) {
    case DType::kF32:
      return WidenRows<S, F32Rows<S>, 1>(static_cast<const float*>(weight.data) + offset, 0,
                                         weight.cols, out);
    case DType::kF16:
      return WidenRows<S, F16Rows<S>, 1>(static_cast<const uint16_t*>(weight.data) + offset, 0,
                                         weight.cols, out);
    case DType::kBF16:
      return WidenRows<S, Bf16Rows<S>, 1>(static_cast<const uint16_t*>(weight.data) + offset, 0,
                                          weight.cols, out);
  }
}

}  // namespace trireme::cpu
