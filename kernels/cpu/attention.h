#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/rows.h"
#include "kernels/kv_layer.h"

namespace trireme::cpu {

// The query heads that share a KV head, of consecutive tokens of one sequence, over its pages.
struct AttentionArgs {
  const float* q;        // [tokens, group, head_dim]
  int64_t tokens;        // at most kAttentionTokens
  int64_t token_stride;  // floats from one token's queries to the next's; in `out`, too
  int64_t group;
  const std::byte* k;  // this KV head's part of the first page (KvLayer)
  const std::byte* v;
  int64_t page_bytes;  // from one page to the next
  KvDType dtype;
  const int32_t* block_table;
  int64_t block_size;
  int64_t head_dim;
  float scale;       // of q . k
  int64_t position;  // of the first token
  int64_t window;    // positions a token sees, itself included; 0: all
  float* out;        // [tokens, group, head_dim]

  // What token t sees: positions [Begin(t), End(t)).
  int64_t End(int64_t t) const { return position + t + 1; }
  int64_t Begin(int64_t t) const { return window > 0 && End(t) > window ? End(t) - window : 0; }
};

// Positions handled together; borders are multiples of it, so they do not depend on the query.
inline constexpr int64_t kAttentionTile = 16;
// Tokens and heads that pass over the keys and values together, which then come from memory once
// for all of them instead of once for each.
inline constexpr int64_t kAttentionTokens = 8;
inline constexpr int64_t kAttentionHeads = 8;

// The 16 positions of a tile at most: one page's keys or values, and with int8 their scales.
template <class Rows>
struct KvTile {
  const typename Rows::Element* rows;  // [count, head_dim]
  const float* scales;                 // [count]; read only if the type has them

  KvTile(const AttentionArgs& a, const std::byte* pages, int64_t position) {
    const std::byte* page = pages + a.block_table[position / a.block_size] * a.page_bytes;
    const int64_t slot = position % a.block_size;
    const auto* first = reinterpret_cast<const typename Rows::Element*>(page);
    rows = first + slot * a.head_dim;
    scales = reinterpret_cast<const float*>(first + a.block_size * a.head_dim) + slot;
  }
};

template <class Rows>
inline constexpr bool kHasScales = sizeof(typename Rows::Element) == 1;

template <class S, class Rows>
inline float Dot(const float* a, const typename Rows::Element* b, int64_t n) {
  typename S::V sum = S::Zero();
  ForEachVector<S>(n, [&](int64_t i, int count) {
    sum = count == S::kLanes ? S::Fma(S::Load(a + i), Rows::Load(b + i), sum)
                             : S::Fma(S::Load(a + i, count), Rows::Load(b + i, count), sum);
  });
  return S::ReduceAdd(sum);
}

// out = out * scale + sum of weights[j] * v[j].
template <class S, class Rows>
inline void AccumulateValues(float* out, float scale, const float* weights,
                             const typename Rows::Element* v, int64_t count, int64_t head_dim) {
  ForEachVector<S>(head_dim, [&](int64_t i, int lanes) {
    typename S::V sum = S::Mul(S::Load(out + i, lanes), S::Set1(scale));
    for (int64_t j = 0; j < count; ++j) {
      sum = S::Fma(S::Set1(weights[j]), Rows::Load(v + j * head_dim + i, lanes), sum);
    }
    S::Store(out + i, sum, lanes);
  });
}

// How far one query has come (online softmax).
struct SoftmaxState {
  float max = -INFINITY;
  float sum = 0.0f;
};

// One query over the positions [first, first + count) of one tile.
template <class S, class Rows>
inline void AttentionTile(const AttentionArgs& a, int64_t first, int64_t count, const float* q,
                          SoftmaxState& state, float* out) {
  const KvTile<Rows> k(a, a.k, first);
  const KvTile<Rows> v(a, a.v, first);
  float score[kAttentionTile];
  for (int64_t j = 0; j < kAttentionTile; ++j) score[j] = -INFINITY;
  for (int64_t j = 0; j < count; ++j) {
    float dot = Dot<S, Rows>(q, k.rows + j * a.head_dim, a.head_dim);
    if constexpr (kHasScales<Rows>) dot *= k.scales[j];
    score[j] = dot * a.scale;
  }
  const float tile_max = S::ReduceMax(S::Load(score));
  const float new_max = tile_max > state.max ? tile_max : state.max;
  const typename S::V weights = Exp<S>(S::Sub(S::Load(score), S::Set1(new_max)));
  // Exp clamps, so positions past the end are cut off here instead of by their infinity.
  S::Store(score, weights);
  float tile_sum = 0.0f;
  for (int64_t j = 0; j < count; ++j) tile_sum += score[j];
  float decay[S::kLanes];
  S::Store(decay, Exp<S>(S::Set1(state.max - new_max)));
  const float keep = state.max == -INFINITY ? 0.0f : decay[0];
  state.sum = state.sum * keep + tile_sum;
  if constexpr (kHasScales<Rows>) {
    for (int64_t j = 0; j < count; ++j) score[j] *= v.scales[j];
  }
  AccumulateValues<S, Rows>(out, keep, score, v.rows, count, a.head_dim);
  state.max = new_max;
}

// Heads [head_begin, head_end) of all tokens, tile by tile.
template <class S, class Rows>
void AttentionHeads(const AttentionArgs& a, int64_t head_begin, int64_t head_end) {
  SoftmaxState states[kAttentionTokens][kAttentionHeads];
  const auto offset = [&](int64_t t, int64_t h) { return t * a.token_stride + h * a.head_dim; };
  for (int64_t t = 0; t < a.tokens; ++t) {
    float* out = a.out + offset(t, head_begin);
    for (int64_t i = 0; i < (head_end - head_begin) * a.head_dim; ++i) out[i] = 0.0f;
  }
  for (int64_t tile = a.Begin(0) / kAttentionTile * kAttentionTile; tile < a.End(a.tokens - 1);
       tile += kAttentionTile) {
    for (int64_t t = 0; t < a.tokens; ++t) {
      const int64_t first = tile < a.Begin(t) ? a.Begin(t) : tile;
      const int64_t last = tile + kAttentionTile < a.End(t) ? tile + kAttentionTile : a.End(t);
      if (first >= last) continue;
      for (int64_t h = head_begin; h < head_end; ++h) {
        AttentionTile<S, Rows>(a, first, last - first, a.q + offset(t, h),
                               states[t][h - head_begin], a.out + offset(t, h));
      }
    }
  }
  for (int64_t t = 0; t < a.tokens; ++t) {
    for (int64_t h = head_begin; h < head_end; ++h) {
      const float inverse = 1.0f / states[t][h - head_begin].sum;
      float* out = a.out + offset(t, h);
      for (int64_t i = 0; i < a.head_dim; ++i) out[i] *= inverse;
    }
  }
}

template <class S, class Rows>
void AttentionOfType(const AttentionArgs& a) {
  for (int64_t h = 0; h < a.group; h += kAttentionHeads) {
    AttentionHeads<S, Rows>(a, h, h + kAttentionHeads < a.group ? h + kAttentionHeads : a.group);
  }
}

template <class S>
void Attention(const AttentionArgs& a) {
  switch (a.dtype) {
    case KvDType::kF32:
      return AttentionOfType<S, F32Rows<S>>(a);
    case KvDType::kBF16:
      return AttentionOfType<S, Bf16Rows<S>>(a);
    case KvDType::kInt8:
      return AttentionOfType<S, Int8Rows<S>>(a);
  }
}

}  // namespace trireme::cpu
