#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cpu/math.h"

namespace trireme::cpu {

// One row of Ops::TopKSoftmax. k passes over the row: it is a handful of experts. The sum runs over
// the chosen in their order.
template <class S>
void TopKSoftmax(const float* scores, int64_t n, int64_t k, int32_t* ids, float* weights) {
  const auto rank = [&](int64_t i) { return std::isnan(scores[i]) ? -INFINITY : scores[i]; };
  const auto taken = [&](int64_t i, int64_t chosen) {
    for (int64_t j = 0; j < chosen; ++j) {
      if (ids[j] == i) return true;
    }
    return false;
  };
  for (int64_t chosen = 0; chosen < k; ++chosen) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; ++i) {
      if (!taken(i, chosen) && (best < 0 || rank(i) > rank(best))) best = i;
    }
    ids[chosen] = static_cast<int32_t>(best);
  }
  float sum = 0.0f;
  for (int64_t j = 0; j < k; ++j) {
    float lanes[S::kLanes];
    S::Store(lanes, Exp<S>(S::Set1(scores[ids[j]] - scores[ids[0]])));
    weights[j] = lanes[0];
    sum += weights[j];
  }
  for (int64_t j = 0; j < k; ++j) weights[j] /= sum;
}

}  // namespace trireme::cpu
