#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/quant/packed.h"

// Products with weights that lie in panels of 16 rows (kernels/quant/packed.h): a lane is a row,
// and has one running sum along the columns of each group.

namespace trireme::cpu {

// y[t, n] = x[t, :] . weight[n, :]; a call takes the rows of some of the panels.
template <class X>
struct PanelArgs {
  const X* x;
  int64_t tokens;
  const std::byte* weight;
  const quant::PackedLayout* layout;
  const float* bias;  // [rows], or null
  int groups;         // a power of two that divides the blocks
  float* y;           // [tokens, rows]
};

inline constexpr int64_t kPanelTokens = 256;  // whose sums are kept at a time
inline constexpr int kTilePanels = 2;
inline constexpr int kTreeLevels = 4;  // of at most 8 groups

// One thread's running sums, and the sums of complete groups: level l of 2^l of them.
struct alignas(64) PanelSums {
  float sums[kTilePanels][kPanelTokens][quant::kPanelRows];
  float levels[kTilePanels][kTreeLevels][kPanelTokens][quant::kPanelRows];
};

// Below, S makes a function of each instruction set's own: the linker would else keep one of the
// copies that were compiled for different ones.

template <class S>
void ClearSums(int panels, int64_t tokens, PanelSums& s) {
  for (int p = 0; p < panels; ++p) {
    for (int64_t t = 0; t < tokens; ++t) {
      for (float& sum : s.sums[p][t]) sum = 0.0f;
    }
  }
}

// Adds the partial sum of group `group` to those before it, in a binary tree: get(level) is the sum
// of a complete subtree, put(level, sum) keeps one. Returns the sum of the largest subtree that
// ends with the group: with the last one, of all.
template <class V, class Get, class Put, class Add>
inline V AddToTree(int group, V sum, const Get& get, const Put& put, const Add& add) {
  int level = 0;
  for (; (group >> level) & 1; ++level) sum = add(get(level), sum);
  put(level, sum);
  return sum;
}

// Writes the sums of a panel's rows for one token.
template <class P, class X>
inline void PutSums(const PanelArgs<X>& a, int64_t panel, int64_t token, const float* sums) {
  const int64_t row = panel * quant::kPanelRows;
  const int64_t rows = a.layout->rows - row;
  float* y = a.y + token * a.layout->rows + row;
  for (int lane = 0; lane < quant::kPanelRows; lane += P::kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(P::kLanes, rows - lane));
    if (count <= 0) return;
    typename P::V sum = P::Load(sums + lane);
    if (a.bias != nullptr) sum = P::Add(sum, P::Load(a.bias + row + lane, count));
    if (count == P::kLanes) {
      P::Store(y + lane, sum);
    } else {
      P::Store(y + lane, sum, count);
    }
  }
}

// Takes the complete sums of a group of columns into the tree, or after the last one to y.
template <class P, class X>
void FinishGroup(const PanelArgs<X>& a, int group, int64_t panel, int panels, int64_t token,
                 int64_t tokens, PanelSums& s) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int p = 0; p < panels; ++p) {
      for (int lane = 0; lane < quant::kPanelRows; lane += P::kLanes) {
        const auto level = [&](int l) { return s.levels[p][l][t] + lane; };
        const typename P::V sum = AddToTree(
            group, P::Load(s.sums[p][t] + lane), [&](int l) { return P::Load(level(l)); },
            [&](int l, typename P::V v) { P::Store(level(l), v); },
            [](typename P::V x, typename P::V y) { return P::Add(x, y); });
        P::Store(s.sums[p][t] + lane, sum);
      }
      if (group + 1 == a.groups) PutSums<P>(a, panel + p, token + t, s.sums[p][t]);
    }
  }
}

}  // namespace trireme::cpu
