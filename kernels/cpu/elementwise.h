#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cpu/math.h"

namespace trireme::cpu {

// Calls f(offset, count) for whole vectors, then once for the tail.
template <class S, class F>
inline void ForEachVector(int64_t n, F f) {
  int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) f(i, S::kLanes);
  if (i < n) f(i, static_cast<int>(n - i));
}

// One row; the sum of squares in sixteen lanes.
template <class S>
void RmsNormRow(const float* x, const float* weight, float eps, int64_t n, float* out) {
  using V = typename S::V;
  V sum = S::Zero();
  ForEachVector<S>(n, [&](int64_t i, int count) {
    const V v = count == S::kLanes ? S::Load(x + i) : S::Load(x + i, count);
    sum = S::Fma(v, v, sum);
  });
  const float scale = 1.0f / std::sqrt(S::ReduceAdd(sum) / static_cast<float>(n) + eps);
  ForEachVector<S>(n, [&](int64_t i, int count) {
    const V v = S::Mul(S::Load(x + i, count), S::Set1(scale));
    S::Store(out + i, S::Mul(v, S::Load(weight + i, count)), count);
  });
}

// One head: pairs (i, i + half).
template <class S>
void RopeHead(float* x, const float* cos, const float* sin, int64_t half) {
  using V = typename S::V;
  ForEachVector<S>(half, [&](int64_t i, int count) {
    const V a = S::Load(x + i, count);
    const V b = S::Load(x + half + i, count);
    const V c = S::Load(cos + i, count);
    const V s = S::Load(sin + i, count);
    S::Store(x + i, S::Sub(S::Mul(a, c), S::Mul(b, s)), count);
    S::Store(x + half + i, S::Add(S::Mul(b, c), S::Mul(a, s)), count);
  });
}

template <class S>
void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  ForEachVector<S>(n, [&](int64_t i, int count) {
    const typename S::V activated = Silu<S>(S::Load(gate + i, count));
    S::Store(out + i, S::Mul(activated, S::Load(up + i, count)), count);
  });
}

template <class S>
void Add(float* x, const float* y, int64_t n) {
  ForEachVector<S>(n, [&](int64_t i, int count) {
    S::Store(x + i, S::Add(S::Load(x + i, count), S::Load(y + i, count)), count);
  });
}

}  // namespace trireme::cpu
