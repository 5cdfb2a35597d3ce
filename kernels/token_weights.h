#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/host_device.h"

namespace trireme {

// The arithmetic of sampling. Every device computes these very bits, so all choose the same token.
//
// A token weighs exp((logit - largest) / temperature), in units of 2^-44: the largest weighs
// kWeightOne, what is below half a unit nothing. Sums of integers have no order, so a row may be
// cut into any number of parts; fewer than 2^20 weights cannot overflow one. Compile for CUDA with
// --fmad=false: fused operations would give other bits.

inline constexpr uint64_t kWeightOne = uint64_t{1} << 44;
inline constexpr int64_t kWeightsMax = (int64_t{1} << 20) - 1;

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Below it, logits divided by the temperature overflow before they differ from greedy.
inline constexpr float kGreedyTemperature = 1e-5f;

// Products that no compiler fuses with a sum.
[[gnu::always_inline]] TRIREME_HOST_DEVICE inline double Product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}
[[gnu::always_inline]] TRIREME_HOST_DEVICE inline float Product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

// NaN counts as -infinity.
TRIREME_HOST_DEVICE inline float NanIsLeast(float logit) {
  return logit == logit ? logit : -kInfinity;
}

// exp(x) in units of 2^-44 for x <= 0, 0 for NaN. Without branches and tables, so that a loop
// around it becomes vector code.
[[gnu::always_inline]] TRIREME_HOST_DEVICE inline uint64_t WeightOfExponent(double x) {
  // x = n ln 2 + r, |r| <= ln 2 / 2; adding kShift rounds to the integer n and leaves it in the low
  // bits.
  constexpr double kShift = 0x1.8p52;
  const double shifted = Product(x, 0x1.71547652b82fep0) + kShift;
  const double n = shifted - kShift;
  const double r = (x - Product(n, 0x1.62e42fefa0000p-1)) - Product(n, 0x1.cf79abc9e3b3ap-40);
  // Taylor, to r^12 / 12!.
  double p = Product(r, 1.0 / 479001600) + 1.0 / 39916800;
  p = Product(p, r) + 1.0 / 3628800;
  p = Product(p, r) + 1.0 / 362880;
  p = Product(p, r) + 1.0 / 40320;
  p = Product(p, r) + 1.0 / 5040;
  p = Product(p, r) + 1.0 / 720;
  p = Product(p, r) + 1.0 / 120;
  p = Product(p, r) + 1.0 / 24;
  p = Product(p, r) + 1.0 / 6;
  p = Product(p, r) + 1.0 / 2;
  p = Product(p, r) + 1.0;
  p = Product(p, r) + 1.0;
  // 2^(n + 44), from its exponent; then 2^52 added leaves the rounded integer in the low bits.
  const double power =
      __builtin_bit_cast(double, (__builtin_bit_cast(uint64_t, shifted) + 1023 + 44) << 52);
  const uint64_t weight =
      __builtin_bit_cast(uint64_t, Product(p, power) + 0x1p52) & ((kWeightOne << 1) - 1);
  return x >= -32 ? weight : 0;  // exp(-32) is a fifth of a unit
}

// `scale` is 1 / temperature. `largest` is of the same row, NaN left out.
[[gnu::always_inline]] TRIREME_HOST_DEVICE inline uint64_t TokenWeight(double logit, double largest,
                                                                       double scale) {
  const uint64_t weight = WeightOfExponent(Product(logit - largest, scale));
  // Infinities are equal, but have no difference.
  return logit == largest ? kWeightOne : weight;
}

// The fewest units that are `share` of `total`, at least one.
TRIREME_HOST_DEVICE inline uint64_t ShareOfWeight(double share, uint64_t total) {
  const double units = std::ceil(share * static_cast<double>(total));
  if (!(units > 1)) return 1;
  return units < static_cast<double>(total) ? static_cast<uint64_t>(units) : total;
}

// The least weight, in units, that is at least `weight` >= 0 of the largest token's.
TRIREME_HOST_DEVICE inline uint64_t LeastWeight(double weight) {
  const double units = std::ceil(weight * static_cast<double>(kWeightOne));
  return units <= static_cast<double>(kWeightOne) ? static_cast<uint64_t>(units) : kWeightOne + 1;
}

// The unit at `uniform` in [0, 1) of `total` > 0: less than `total`.
TRIREME_HOST_DEVICE inline uint64_t UnitAt(double uniform, uint64_t total) {
  const double unit = uniform * static_cast<double>(total);
  return unit < static_cast<double>(total - 1) ? static_cast<uint64_t>(unit) : total - 1;
}

// log(total / kWeightOne), absolute error below 1e-15 (1 + |result|); -infinity of 0.
TRIREME_HOST_DEVICE inline double LogOfWeight(uint64_t total) {
  if (total == 0) return -double{kInfinity};
  // 2^n m, m from [2/3, 4/3), so that |s| <= 1/5 in log m = 2 atanh s.
  const uint64_t bits = __builtin_bit_cast(uint64_t, static_cast<double>(total));
  int n = static_cast<int>(bits >> 52) - 1023 - 44;
  double m = __builtin_bit_cast(double, (bits & ((uint64_t{1} << 52) - 1)) | uint64_t{1023} << 52);
  if (m >= 4.0 / 3) {
    m = m / 2;
    ++n;
  }
  const double s = (m - 1) / (m + 1);
  const double square = Product(s, s);
  double p = 1.0 / 21;
  for (int k = 19; k >= 1; k -= 2) p = Product(p, square) + 1.0 / k;
  return Product(n, 0x1.62e42fefa0000p-1) + (Product(n, 0x1.cf79abc9e3b3ap-40) + Product(2 * s, p));
}

// Log probability of a token by the row's largest logit and the sum of its weights at
// temperature 1.
TRIREME_HOST_DEVICE inline float Logprob(float logit, float largest, uint64_t total) {
  return static_cast<float>(double{logit} - (double{largest} + LogOfWeight(total)));
}

// Uniform in [0, 1), from Philox4x32-10 (Salmon et al. 2011) keyed by `seed` at counter `position`.
TRIREME_HOST_DEVICE inline double UniformAt(uint64_t seed, uint64_t position) {
  uint32_t counter[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0,
                         0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter[0] = static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0];
    counter[1] = static_cast<uint32_t>(b);
    counter[2] = static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1];
    counter[3] = static_cast<uint32_t>(a);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  const uint64_t bits = (uint64_t{counter[0]} << 32 | counter[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace trireme
