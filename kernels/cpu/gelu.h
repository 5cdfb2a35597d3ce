#pragma once

#include <cstdint>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/math.h"

namespace trireme::cpu {

// x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 x^3). Since 1 + tanh(u) is
// 2 / (1 + e^-2u), this is x / (1 + e^-2u), which loses no digits where tanh(u) is near -1.
template <class S>
inline typename S::V GeluTanh(typename S::V x) {
  constexpr float kLinear = -1.5957691216057308f;  // -2 sqrt(2 / pi)
  constexpr float kCubic = kLinear * 0.044715f;
  const typename S::V slope = S::Fma(S::Mul(x, x), S::Set1(kCubic), S::Set1(kLinear));
  const typename S::V e = Exp<S>(S::Mul(x, slope));
  return S::Div(x, S::Add(S::Set1(1.0f), e));
}

template <class S>
void GeluTanhMul(const float* gate, const float* up, int64_t n, float* out) {
  ForEachVector<S>(n, [&](int64_t i, int count) {
    const typename S::V activated = GeluTanh<S>(S::Load(gate + i, count));
    S::Store(out + i, S::Mul(activated, S::Load(up + i, count)), count);
  });
}

}  // namespace trireme::cpu
