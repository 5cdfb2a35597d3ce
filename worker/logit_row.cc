#include "worker/logit_row.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace trireme {
namespace {

// Tokens whose weights are computed at a time: they stay in the first-level cache.
constexpr size_t kBlock = 512;
constexpr size_t kLanes = 8;

float NanIsLeast(float logit) {
  return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit;
}

// exp(x) for x <= 0, relative error below 1e-14; 0 below -690 and for NaN. Without branches and
// tables, so that loops around it become vector code.
inline double ExpOfNegative(double x) {
  // x = n ln 2 + r, |r| <= ln 2 / 2; adding kShift rounds to the integer n and leaves it in the low
  // bits.
  constexpr double kShift = 0x1.8p52;
  const double shifted = x * 0x1.71547652b82fep0 + kShift;
  const double n = shifted - kShift;
  const double r = (x - n * 0x1.62e42fefa0000p-1) - n * 0x1.cf79abc9e3b3ap-40;
  // Taylor, to r^12 / 12!.
  double p = 1.0 / 479001600;
  for (const double factor : {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                              1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0}) {
    p = p * r + factor;
  }
  const double power = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);
  return x >= -690 ? p * power : 0.0;
}

// The largest value that is not NaN; -infinity if there is none.
float Largest(std::span<const float> logits) {
  std::array<float, 2 * kLanes> largest;
  largest.fill(-std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + largest.size() <= logits.size(); i += largest.size()) {
    for (size_t lane = 0; lane < largest.size(); ++lane) {
      const float logit = logits[i + lane];
      largest[lane] = logit > largest[lane] ? logit : largest[lane];
    }
  }
  for (; i < logits.size(); ++i) largest[0] = std::max(largest[0], NanIsLeast(logits[i]));
  return *std::max_element(largest.begin(), largest.end());
}

// In one fixed order, whatever the vector width.
double BlockSum(const double* weights, size_t count) {
  std::array<double, kLanes> sums{};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += weights[i + lane];
  }
  for (; i < count; ++i) sums[0] += weights[i];
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
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

LogitRow::LogitRow(std::span<const float> logits, double temperature)
    : logits_(logits), largest_(Largest(logits)), scale_(1 / temperature) {}

double LogitRow::Weight(float logit) const {
  // Infinities are equal, but have no difference.
  return logit == largest_ ? 1.0 : ExpOfNegative((double{logit} - double{largest_}) * scale_);
}

double LogitRow::Weights(size_t begin, const Candidate& cut, double min_weight,
                         double* weights) const {
  const size_t count = std::min(kBlock, logits_.size() - begin);
  const float* logits = logits_.data() + begin;
  const double largest = largest_;
  for (size_t i = 0; i < count; ++i) {
    const double logit = logits[i];
    const double weight = ExpOfNegative((logit - largest) * scale_);
    weights[i] = logit == largest ? 1.0 : weight;
  }
  if (min_weight > 0) {
    for (size_t i = 0; i < count; ++i) weights[i] = weights[i] >= min_weight ? weights[i] : 0.0;
  }
  if (cut.logit > kWorst.logit) {
    for (size_t i = 0; i < count; ++i) {
      if (Better(cut, {logits[i], static_cast<int32_t>(begin + i)})) weights[i] = 0;
    }
  }
  return BlockSum(weights, count);
}

double LogitRow::Total(const Candidate& cut, double min_weight) const {
  std::array<double, kBlock> weights;
  double total = 0;
  for (size_t begin = 0; begin < logits_.size(); begin += kBlock) {
    total += Weights(begin, cut, min_weight, weights.data());
  }
  return total;
}

int32_t LogitRow::Draw(double uniform, const Candidate& cut, double min_weight) const {
  std::array<double, kBlock> weights;
  std::vector<double> sums;
  double total = 0;
  for (size_t begin = 0; begin < logits_.size(); begin += kBlock) {
    sums.push_back(Weights(begin, cut, min_weight, weights.data()));
    total += sums.back();
  }
  double left = uniform * total;
  for (size_t block = 0; block < sums.size(); ++block) {
    if (left >= sums[block]) {
      left -= sums[block];
      continue;
    }
    const size_t begin = block * kBlock;
    Weights(begin, cut, min_weight, weights.data());
    for (size_t i = 0; i < std::min(kBlock, logits_.size() - begin); ++i) {
      left -= weights[i];
      if (left < 0) return static_cast<int32_t>(begin + i);
    }
    left = 0;  // rounding left a sliver: the next block's first
  }
  return ArgMax(logits_);  // or past the end
}

Candidate LogitRow::CutAtMass(const Candidate& cut, double mass) const {
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < logits_.size(); ++i) {
    const Candidate candidate{NanIsLeast(logits_[i]), static_cast<int32_t>(i)};
    if (!Better(cut, candidate)) candidates.push_back(candidate);
  }
  // Halves what holds the end of the prefix; `before` weighs what is better than that.
  auto begin = candidates.begin();
  auto end = candidates.end();
  double before = 0;
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, Better);
    double half = 0;
    for (auto it = begin; it != middle; ++it) half += Weight(it->logit);
    if (before + half >= mass) {
      end = middle;
    } else {
      before += half;
      begin = middle;
    }
  }
  return *begin;
}

}  // namespace trireme
