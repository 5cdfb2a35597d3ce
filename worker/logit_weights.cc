#include "worker/logit_weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace trireme {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kLanes = 16;

float NanIsLeast(float logit) { return std::isnan(logit) ? -kInfinity : logit; }

// The largest value that is not NaN; -infinity if there is none.
float Largest(std::span<const float> logits) {
  std::array<float, kLanes> largest;
  largest.fill(-kInfinity);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float logit = logits[i + lane];
      largest[lane] = logit > largest[lane] ? logit : largest[lane];
    }
  }
  for (; i < logits.size(); ++i) largest[0] = std::max(largest[0], NanIsLeast(logits[i]));
  return *std::max_element(largest.begin(), largest.end());
}

// exp(x) for x <= 0, relative error below 1e-14; 0 below -690 and for NaN. Without branches and
// tables, so that a loop around it becomes vector code; without fused operations, so that every
// instruction set gives the same bits.
[[gnu::always_inline]] inline double ExpOfNegative(double x) {
  // x = n ln 2 + r, |r| <= ln 2 / 2; adding kShift rounds to the integer n and leaves it in the low
  // bits.
  constexpr double kShift = 0x1.8p52;
  const double shifted = x * 0x1.71547652b82fep0 + kShift;
  const double n = shifted - kShift;
  const double r = (x - n * 0x1.62e42fefa0000p-1) - n * 0x1.cf79abc9e3b3ap-40;
  // Taylor, to r^12 / 12!.
  double p = r * (1.0 / 479001600) + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 1.0 / 2;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const double power = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
  return x >= -690 ? p * power : 0.0;
}

[[gnu::always_inline]] inline void FillWeightsInline(const float* logits, size_t count,
                                                     double largest, double scale,
                                                     double* weights) {
  for (size_t i = 0; i < count; ++i) {
    const double logit = logits[i];
    const double weight = ExpOfNegative((logit - largest) * scale);
    // Infinities are equal, but have no difference.
    weights[i] = logit == largest ? 1.0 : weight;
  }
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void FillWeightsAvx2(const float* logits, size_t count, double largest,
                                             double scale, double* weights) {
  FillWeightsInline(logits, count, largest, scale, weights);
}
#endif

void FillWeights(const float* logits, size_t count, double largest, double scale, double* weights) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    return FillWeightsAvx2(logits, count, largest, scale, weights);
  }
#endif
  FillWeightsInline(logits, count, largest, scale, weights);
}

double Sum(std::span<const double> weights) {
  std::array<double, kLanes> sums{};
  size_t i = 0;
  for (; i + kLanes <= weights.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += weights[i + lane];
  }
  for (; i < weights.size(); ++i) sums[0] += weights[i];
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// Weights in coarse order, by exponent and the first bits of the mantissa: 1 is in bin 0, all below
// 2^-63 in the last.
constexpr size_t kBinBits = 6;
constexpr size_t kBins = size_t{64} << kBinBits;

constexpr int kBinShift = 52 - static_cast<int>(kBinBits);
constexpr uint64_t kOne = std::bit_cast<uint64_t>(1.0) >> kBinShift;

size_t BinOf(double weight) {
  return std::min<uint64_t>(kOne - (std::bit_cast<uint64_t>(weight) >> kBinShift), kBins - 1);
}

}  // namespace

int32_t ArgMax(std::span<const float> logits) {
  const auto found = std::find(logits.begin(), logits.end(), Largest(logits));
  return found == logits.end() ? 0 : static_cast<int32_t>(found - logits.begin());
}

std::vector<Candidate> Best(std::span<const float> logits, size_t count) {
  count = std::min(count, logits.size());
  std::vector<Candidate> best;
  if (count == 0) return best;
  // The worst of them are thrown out whenever as many again have come, so each costs constant time.
  const size_t room = std::min(2 * count, logits.size());
  best.reserve(room);
  const auto shrink = [&] {
    std::nth_element(best.begin(), best.begin() + static_cast<ptrdiff_t>(count) - 1, best.end(),
                     Better);
    best.resize(count);
    return best.back().logit;
  };
  size_t i = 0;
  for (; i < room; ++i) best.push_back({NanIsLeast(logits[i]), static_cast<int32_t>(i)});
  float worst = shrink();
  for (; i < logits.size(); ++i) {
    // An equal logit has a larger id than those before it.
    if (!(logits[i] > worst)) continue;
    best.push_back({logits[i], static_cast<int32_t>(i)});
    if (best.size() == room) worst = shrink();
  }
  shrink();
  std::sort(best.begin(), best.end(), Better);
  return best;
}

LogitWeights::LogitWeights(std::span<const float> logits, double temperature)
    : logits_(logits),
      largest_(Largest(logits)),
      memory_(std::make_unique_for_overwrite<double[]>(logits.size())),
      weights_(memory_.get(), logits.size()) {
  FillWeights(logits.data(), logits.size(), largest_, 1 / temperature, weights_.data());
}

double LogitWeights::Total() const { return Sum(weights_); }

void LogitWeights::KeepUpTo(const Candidate& cut) {
  const size_t ties_end = static_cast<size_t>(cut.id) + 1;
  for (size_t i = 0; i < ties_end; ++i) {
    weights_[i] = logits_[i] >= cut.logit ? weights_[i] : 0.0;
  }
  for (size_t i = ties_end; i < weights_.size(); ++i) {
    weights_[i] = logits_[i] > cut.logit ? weights_[i] : 0.0;
  }
}

void LogitWeights::KeepFrom(double weight) {
  for (double& own : weights_) own = own >= weight ? own : 0.0;
}

void LogitWeights::KeepShare(double share) {
  std::vector<double> bins(kBins);
  for (const double weight : weights_) bins[BinOf(weight)] += weight;
  const double mass = share * Sum(bins);
  double sum = 0;
  size_t bin = 0;
  for (; bin + 1 < kBins && sum + bins[bin] < mass; ++bin) sum += bins[bin];
  // The prefix ends in this bin, or with all there is. Positive numbers are in the order of their
  // bits; one comparison says whether they are in a range.
  const uint64_t least = bin + 1 < kBins ? (kOne - bin) << kBinShift : 1;
  const uint64_t width = ((kOne - bin + 1) << kBinShift) - least;
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (std::bit_cast<uint64_t>(weights_[i]) - least < width) {
      candidates.push_back({logits_[i], static_cast<int32_t>(i)});
    }
  }
  if (candidates.empty()) return;
  std::sort(candidates.begin(), candidates.end(), Better);
  size_t last = 0;
  for (; last + 1 < candidates.size(); ++last) {
    sum += weights_[static_cast<size_t>(candidates[last].id)];
    if (sum >= mass) break;
  }
  KeepUpTo(candidates[last]);
}

int32_t LogitWeights::Draw(double uniform) const {
  constexpr size_t kBlock = 512;
  const auto block = [&](size_t begin) {
    return weights_.subspan(begin, std::min(kBlock, weights_.size() - begin));
  };
  std::vector<double> sums;
  double total = 0;
  for (size_t begin = 0; begin < weights_.size(); begin += kBlock) {
    sums.push_back(Sum(block(begin)));
    total += sums.back();
  }
  double left = uniform * total;
  for (size_t i = 0; i < sums.size(); ++i) {
    if (left >= sums[i]) {
      left -= sums[i];
      continue;
    }
    const std::span<double> weights = block(i * kBlock);
    for (size_t j = 0; j < weights.size(); ++j) {
      left -= weights[j];
      if (left < 0) return static_cast<int32_t>(i * kBlock + j);
    }
    left = 0;  // rounding left a sliver: the next one that weighs anything
  }
  return ArgMax(logits_);  // or past the end
}

}  // namespace trireme
