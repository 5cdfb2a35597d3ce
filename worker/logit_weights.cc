#include "worker/logit_weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>

#include "kernels/token_weights.h"

namespace trireme {
namespace {

constexpr size_t kLanes = 16;

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

[[gnu::always_inline]] inline void FillWeightsInline(const float* logits, size_t count,
                                                     double largest, double scale,
                                                     uint64_t* weights) {
  for (size_t i = 0; i < count; ++i) weights[i] = TokenWeight(logits[i], largest, scale);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void FillWeightsAvx2(const float* logits, size_t count, double largest,
                                             double scale, uint64_t* weights) {
  FillWeightsInline(logits, count, largest, scale, weights);
}
#endif

void FillWeights(const float* logits, size_t count, double largest, double scale,
                 uint64_t* weights) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    return FillWeightsAvx2(logits, count, largest, scale, weights);
  }
#endif
  FillWeightsInline(logits, count, largest, scale, weights);
}

uint64_t Sum(std::span<const uint64_t> weights) {
  return std::accumulate(weights.begin(), weights.end(), uint64_t{0});
}

// Weights in coarse order, by bit width and the bits after the first: the largest is in bin 0, a
// single unit in the last but one, nothing in the last.
constexpr size_t kBinBits = 6;
constexpr size_t kBins = (size_t{44} << kBinBits) + 2;

constexpr int kBinShift = 52 - static_cast<int>(kBinBits);
constexpr uint64_t kOne = std::bit_cast<uint64_t>(static_cast<double>(kWeightOne)) >> kBinShift;

size_t BinOf(uint64_t weight) {
  const double value = static_cast<double>(static_cast<int64_t>(weight));
  return std::min<uint64_t>(kOne - (std::bit_cast<uint64_t>(value) >> kBinShift), kBins - 1);
}

// The least weight in a bin but the last.
uint64_t LeastIn(size_t bin) {
  return static_cast<uint64_t>(std::ceil(std::bit_cast<double>((kOne - bin) << kBinShift)));
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
      memory_(std::make_unique_for_overwrite<uint64_t[]>(logits.size())),
      weights_(memory_.get(), logits.size()) {
  FillWeights(logits.data(), logits.size(), largest_, 1 / temperature, weights_.data());
}

uint64_t LogitWeights::Total() const { return Sum(weights_); }

void LogitWeights::KeepUpTo(const Candidate& cut) {
  const size_t ties_end = static_cast<size_t>(cut.id) + 1;
  for (size_t i = 0; i < ties_end; ++i) {
    weights_[i] &= -uint64_t{logits_[i] >= cut.logit};
  }
  for (size_t i = ties_end; i < weights_.size(); ++i) {
    weights_[i] &= -uint64_t{logits_[i] > cut.logit};
  }
}

void LogitWeights::KeepFrom(double weight) {
  const uint64_t least = LeastWeight(weight);
  for (uint64_t& own : weights_) own = own >= least ? own : 0;
}

void LogitWeights::KeepShare(double share) {
  std::vector<uint64_t> bins(kBins);
  for (const uint64_t weight : weights_) bins[BinOf(weight)] += weight;
  const uint64_t total = Sum(bins);
  if (total == 0) return;
  uint64_t left = ShareOfWeight(share, total);
  size_t bin = 0;
  for (; left > bins[bin]; ++bin) left -= bins[bin];
  // The prefix ends in this bin. One comparison says whether a weight is in it.
  const uint64_t least = LeastIn(bin);
  const uint64_t width = bin == 0 ? 1 : LeastIn(bin - 1) - least;
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] - least < width) candidates.push_back({logits_[i], static_cast<int32_t>(i)});
  }
  std::sort(candidates.begin(), candidates.end(), Better);
  for (const Candidate& candidate : candidates) {
    const uint64_t weight = weights_[static_cast<size_t>(candidate.id)];
    if (left <= weight) return KeepUpTo(candidate);
    left -= weight;
  }
}

int32_t LogitWeights::Draw(double uniform) const {
  constexpr size_t kBlock = 512;
  const auto block = [&](size_t begin) {
    return weights_.subspan(begin, std::min(kBlock, weights_.size() - begin));
  };
  std::vector<uint64_t> sums;
  for (size_t begin = 0; begin < weights_.size(); begin += kBlock) {
    sums.push_back(Sum(block(begin)));
  }
  const uint64_t total = Sum(sums);
  if (total == 0) return -1;
  uint64_t left = UnitAt(uniform, total);
  size_t i = 0;
  for (; left >= sums[i]; ++i) left -= sums[i];
  size_t id = i * kBlock;
  for (; left >= weights_[id]; ++id) left -= weights_[id];
  return static_cast<int32_t>(id);
}

}  // namespace trireme
