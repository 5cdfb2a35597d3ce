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

// Positions that one step of the online softmax takes; borders are multiples of it, so they do not
// depend on the query.
inline constexpr int64_t kAttentionSpan = 64;
inline constexpr int64_t kSpanGroups = kAttentionSpan / kKeyGroup;
// Tokens and heads that pass over the keys and values together, which then come from memory once
// for all of them instead of once for each.
inline constexpr int64_t kAttentionTokens = 16;
inline constexpr int64_t kAttentionHeads = 8;

// The keys and values of a span, in groups of sixteen positions that may lie in different pages,
// and with int8 their scales.
template <class Rows>
struct KvSpan {
  using Element = typename Rows::Element;
  static constexpr bool kScaled = sizeof(Element) == 1;
  const Element* k[kSpanGroups];  // each [head_dim, 16]
  const Element* v[kSpanGroups];  // each [16, head_dim]
  const float* k_scales[kSpanGroups];
  const float* v_scales[kSpanGroups];

  // Groups [0, groups) of the span from `position` on; those before `begin` are not looked up.
  KvSpan(const AttentionArgs& a, int64_t position, int64_t begin, int64_t groups) {
    for (int64_t g = begin; g < groups; ++g) {
      const int64_t at = position + g * kKeyGroup;
      const int64_t page = a.block_table[at / a.block_size] * a.page_bytes;
      const int64_t slot = at % a.block_size;
      const auto* keys = reinterpret_cast<const Element*>(a.k + page);
      const auto* values = reinterpret_cast<const Element*>(a.v + page);
      const int64_t end = a.block_size * a.head_dim;
      k[g] = keys + slot * a.head_dim;
      v[g] = values + slot * a.head_dim;
      k_scales[g] = reinterpret_cast<const float*>(keys + end) + slot;
      v_scales[g] = reinterpret_cast<const float*>(values + end) + slot;
    }
  }
};

// How far one query has come (online softmax): the sum in sixteen lanes, position modulo sixteen.
struct SoftmaxState {
  float max = -INFINITY;
  float sum[kKeyGroup] = {};
};

// kQueries queries that see the same positions [begin, end) of a span, counted from its start.
template <int kQueries>
struct QueryBlock {
  const float* q[kQueries];
  float* out[kQueries];
  SoftmaxState* state[kQueries];
  int64_t begin;
  int64_t end;
  float scores[kQueries][kAttentionSpan];  // then the weights of the softmax, up to a factor
  float keep[kQueries];                    // what the sums so far are worth
  bool first = false;                      // of those that pass over the span

  int64_t first_group() const { return begin / kKeyGroup; }
  int64_t end_group() const { return (end + kKeyGroup - 1) / kKeyGroup; }
};

// Dimensions whose products are summed in one chain. Shorter than a head, so that rounding errors
// do not grow with it.
inline constexpr int64_t kAttentionChain = 32;

// scores = scale * q . k of kGroups groups from `group` on, one position a lane: no sum crosses
// lanes. A dot product is a chain of fused multiply-adds for each 32 dimensions, added in order.
template <class S, class Rows, int kQueries, int kGroups>
inline void Scores(const AttentionArgs& a, const KvSpan<Rows>& kv, int64_t group,
                   QueryBlock<kQueries>& b) {
  using V = typename S::V;
  for (int64_t begin = 0; begin < a.head_dim; begin += kAttentionChain) {
    const int64_t end = begin + kAttentionChain < a.head_dim ? begin + kAttentionChain : a.head_dim;
    V sum[kQueries][kGroups];
    for (int r = 0; r < kQueries; ++r) {
      for (int g = 0; g < kGroups; ++g) sum[r][g] = S::Zero();
    }
    for (int64_t i = begin; i < end; ++i) {
      V k[kGroups];
      for (int g = 0; g < kGroups; ++g) k[g] = Rows::Load(kv.k[group + g] + i * kKeyGroup);
      // Memory brings the values, as large as the keys, while these are multiplied.
      for (int g = 0; b.first && g < kGroups; ++g) {
        __builtin_prefetch(kv.v[group + g] + i * kKeyGroup);
      }
      for (int r = 0; r < kQueries; ++r) {
        const V q = S::Set1(b.q[r][i]);
        for (int g = 0; g < kGroups; ++g) sum[r][g] = S::Fma(q, k[g], sum[r][g]);
      }
    }
    for (int r = 0; r < kQueries; ++r) {
      for (int g = 0; g < kGroups; ++g) {
        float* scores = b.scores[r] + (group + g) * kKeyGroup;
        S::Store(scores, begin == 0 ? sum[r][g] : S::Add(S::Load(scores), sum[r][g]));
      }
    }
  }
  for (int g = 0; g < kGroups; ++g) {
    V scale = S::Set1(a.scale);
    if constexpr (KvSpan<Rows>::kScaled) scale = S::Mul(scale, S::Load(kv.k_scales[group + g]));
    for (int r = 0; r < kQueries; ++r) {
      float* scores = b.scores[r] + (group + g) * kKeyGroup;
      S::Store(scores, S::Mul(S::Load(scores), scale));
    }
  }
}

// Sets the scores of positions in the block's groups that it does not see.
template <int kQueries>
inline void SetUnseen(QueryBlock<kQueries>& b, float* scores, float value) {
  for (int64_t j = b.first_group() * kKeyGroup; j < b.begin; ++j) scores[j] = value;
  for (int64_t j = b.end; j < b.end_group() * kKeyGroup; ++j) scores[j] = value;
}

// Turns one query's scores into weights and brings its state up to date.
template <class S, class Rows, int kQueries>
inline void Softmax(const KvSpan<Rows>& kv, QueryBlock<kQueries>& b, int r) {
  using V = typename S::V;
  float* scores = b.scores[r];
  SoftmaxState& state = *b.state[r];
  SetUnseen(b, scores, -INFINITY);
  V max = S::Load(scores + b.first_group() * kKeyGroup);
  for (int64_t g = b.first_group() + 1; g < b.end_group(); ++g) {
    max = S::Max(max, S::Load(scores + g * kKeyGroup));
  }
  const float span_max = S::ReduceMax(max);
  const float new_max = span_max > state.max ? span_max : state.max;
  for (int64_t g = b.first_group(); g < b.end_group(); ++g) {
    float* group = scores + g * kKeyGroup;
    S::Store(group, Exp<S>(S::Sub(S::Load(group), S::Set1(new_max))));
  }
  SetUnseen(b, scores, 0.0f);  // Exp clamps, so their infinity was not enough
  float decay[S::kLanes];
  S::Store(decay, Exp<S>(S::Set1(state.max - new_max)));
  b.keep[r] = state.max == -INFINITY ? 0.0f : decay[0];
  V sum = S::Mul(S::Load(state.sum), S::Set1(b.keep[r]));
  for (int64_t g = b.first_group(); g < b.end_group(); ++g) {
    float* group = scores + g * kKeyGroup;
    const V weights = S::Load(group);
    sum = S::Add(sum, weights);
    if constexpr (KvSpan<Rows>::kScaled) {
      S::Store(group, S::Mul(weights, S::Load(kv.v_scales[g])));
    }
  }
  S::Store(state.sum, sum);
  state.max = new_max;
}

// out = out * keep + weights . v of kVectors x 16 dimensions from `i` on, of which `lanes` in the
// last vector; each dimension is one chain along the positions.
template <class S, class Rows, int kQueries, int kVectors>
inline void Values(const AttentionArgs& a, const KvSpan<Rows>& kv, int64_t i, int lanes,
                   QueryBlock<kQueries>& b) {
  using V = typename S::V;
  V sum[kQueries][kVectors];
  for (int r = 0; r < kQueries; ++r) {
    for (int n = 0; n < kVectors; ++n) {
      sum[r][n] = S::Mul(S::Load(b.out[r] + i + n * S::kLanes, lanes), S::Set1(b.keep[r]));
    }
  }
  for (int64_t g = b.first_group(); g < b.end_group(); ++g) {
    const int64_t first = g * kKeyGroup;
    const int64_t begin = first < b.begin ? b.begin : first;
    const int64_t end = first + kKeyGroup < b.end ? first + kKeyGroup : b.end;
    const typename Rows::Element* row = kv.v[g] + (begin - first) * a.head_dim + i;
    for (int64_t j = begin; j < end; ++j, row += a.head_dim) {
      V v[kVectors];
      for (int n = 0; n < kVectors; ++n) {
        v[n] = lanes == S::kLanes ? Rows::Load(row + n * S::kLanes) : Rows::Load(row, lanes);
      }
      for (int r = 0; r < kQueries; ++r) {
        const V weight = S::Set1(b.scores[r][j]);
        for (int n = 0; n < kVectors; ++n) sum[r][n] = S::Fma(weight, v[n], sum[r][n]);
      }
    }
  }
  for (int r = 0; r < kQueries; ++r) {
    for (int n = 0; n < kVectors; ++n) {
      S::Store(b.out[r] + i + n * S::kLanes, sum[r][n], lanes);
    }
  }
}

// One block over one span.
template <class S, class Rows, int kQueries>
void AttendSpan(const AttentionArgs& a, const KvSpan<Rows>& kv, QueryBlock<kQueries>& b) {
  constexpr int kTogether = S::kSums >= 4 * kQueries ? 4 : S::kSums >= 2 * kQueries ? 2 : 1;
  int64_t group = b.first_group();
  for (; group + kTogether <= b.end_group(); group += kTogether) {
    Scores<S, Rows, kQueries, kTogether>(a, kv, group, b);
  }
  for (; group < b.end_group(); ++group) Scores<S, Rows, kQueries, 1>(a, kv, group, b);
  for (int r = 0; r < kQueries; ++r) Softmax<S, Rows, kQueries>(kv, b, r);
  int64_t i = 0;
  for (; i + kTogether * S::kLanes <= a.head_dim; i += kTogether * S::kLanes) {
    Values<S, Rows, kQueries, kTogether>(a, kv, i, S::kLanes, b);
  }
  for (; i + S::kLanes <= a.head_dim; i += S::kLanes) {
    Values<S, Rows, kQueries, 1>(a, kv, i, S::kLanes, b);
  }
  if (i < a.head_dim) {
    Values<S, Rows, kQueries, 1>(a, kv, i, static_cast<int>(a.head_dim - i), b);
  }
}

// Heads [head_begin, head_end) of all tokens.
template <class S, class Rows>
class HeadsAttention {
 public:
  HeadsAttention(const AttentionArgs& a, int64_t head_begin, int64_t head_end)
      : a_(a), head_begin_(head_begin), heads_(head_end - head_begin) {}

  void Run() {
    for (int64_t query = 0; query < a_.tokens * heads_; ++query) {
      float* out = a_.out + Offset(query);
      for (int64_t i = 0; i < a_.head_dim; ++i) out[i] = 0.0f;
    }
    const int64_t end = a_.End(a_.tokens - 1);
    for (int64_t at = a_.Begin(0) / kAttentionSpan * kAttentionSpan; at < end;
         at += kAttentionSpan) {
      Span(at);
    }
    for (int64_t query = 0; query < a_.tokens * heads_; ++query) {
      const float inverse = 1.0f / S::ReduceAdd(S::Load(states_[query].sum));
      float* out = a_.out + Offset(query);
      for (int64_t i = 0; i < a_.head_dim; ++i) out[i] *= inverse;
    }
  }

 private:
  // Query t * heads + h is head h of token t.
  int64_t Offset(int64_t query) const {
    return query / heads_ * a_.token_stride + (head_begin_ + query % heads_) * a_.head_dim;
  }
  // What token t sees of the span at `at`.
  int64_t First(int64_t t, int64_t at) const { return a_.Begin(t) > at ? a_.Begin(t) - at : 0; }
  int64_t Last(int64_t t, int64_t at) const {
    return a_.End(t) - at < kAttentionSpan ? a_.End(t) - at : kAttentionSpan;
  }

  // Neighbouring tokens that see the same positions of it go together.
  void Span(int64_t at) {
    for (int64_t t = 0; t < a_.tokens;) {
      const int64_t first = First(t, at), last = Last(t, at);
      int64_t next = t + 1;
      while (next < a_.tokens && First(next, at) == first && Last(next, at) == last) ++next;
      if (first < last) Queries(at, t * heads_, next * heads_, first, last);
      t = next;
    }
  }

  void Queries(int64_t at, int64_t query, int64_t query_end, int64_t first, int64_t last) {
    const KvSpan<Rows> kv(a_, at, first / kKeyGroup, (last + kKeyGroup - 1) / kKeyGroup);
    const int64_t begin = query;
    for (; query + 4 <= query_end; query += 4) Block<4>(kv, query, first, last, query == begin);
    for (; query + 2 <= query_end; query += 2) Block<2>(kv, query, first, last, query == begin);
    for (; query < query_end; ++query) Block<1>(kv, query, first, last, query == begin);
  }

  template <int kQueries>
  void Block(const KvSpan<Rows>& kv, int64_t query, int64_t first, int64_t last, bool brings) {
    QueryBlock<kQueries> block;
    block.first = brings;
    for (int r = 0; r < kQueries; ++r) {
      block.q[r] = a_.q + Offset(query + r);
      block.out[r] = a_.out + Offset(query + r);
      block.state[r] = &states_[query + r];
    }
    block.begin = first;
    block.end = last;
    AttendSpan<S, Rows, kQueries>(a_, kv, block);
  }

  const AttentionArgs& a_;
  const int64_t head_begin_;
  const int64_t heads_;
  SoftmaxState states_[kAttentionTokens * kAttentionHeads];
};

template <class S, class Rows>
void AttentionOfType(const AttentionArgs& a) {
  for (int64_t h = 0; h < a.group; h += kAttentionHeads) {
    const int64_t end = h + kAttentionHeads < a.group ? h + kAttentionHeads : a.group;
    HeadsAttention<S, Rows>(a, h, end).Run();
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
