#pragma once

namespace trireme::cpu {

// e^x for x <= 88; below -87 it is zero. Cody and Waite's reduction x = n ln 2 + r, |r| <= ln 2 /
// 2, and the Taylor polynomial of degree 7 in r (truncation below 6e-9), within 2 units in the last
// place.
template <class S>
inline typename S::V Exp(typename S::V x) {
  using V = typename S::V;
  const V clamped = S::Min(S::Max(x, S::Set1(-87.0f)), S::Set1(88.0f));
  const V n = S::RoundToInteger(S::Mul(clamped, S::Set1(1.44269504088896341f)));
  V r = S::Fma(n, S::Set1(-0.693359375f), clamped);
  r = S::Fma(n, S::Set1(2.12194440e-4f), r);
  V p = S::Set1(1.0f / 5040);
  p = S::Fma(p, r, S::Set1(1.0f / 720));
  p = S::Fma(p, r, S::Set1(1.0f / 120));
  p = S::Fma(p, r, S::Set1(1.0f / 24));
  p = S::Fma(p, r, S::Set1(1.0f / 6));
  p = S::Fma(p, r, S::Set1(0.5f));
  p = S::Fma(p, r, S::Set1(1.0f));
  p = S::Fma(p, r, S::Set1(1.0f));
  return S::ScaleByPowerOfTwo(p, n);
}

// x / (1 + e^-x).
template <class S>
inline typename S::V Silu(typename S::V x) {
  const typename S::V e = Exp<S>(S::Sub(S::Zero(), x));
  return S::Div(x, S::Add(S::Set1(1.0f), e));
}

}  // namespace trireme::cpu
