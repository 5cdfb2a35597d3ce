#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace trireme {

// A token of a row of logits. Of equal logits the smaller id is the better.
struct Candidate {
  float logit = 0;
  int32_t id = 0;
};

inline bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// No worse than any candidate.
constexpr Candidate kWorst = {-std::numeric_limits<float>::infinity(),
                              std::numeric_limits<int32_t>::max()};

// The largest logit; NaN counts as nothing, of equals the first. 0 if all are NaN.
int32_t ArgMax(std::span<const float> logits);

// The `count` best, best first; NaN counts as -infinity. Sorts no more than these: one pass keeps
// the best so far.
std::vector<Candidate> Best(std::span<const float> logits, size_t count);

// The softmax of one row, without its normalisation: weight exp((logit - largest) / temperature),
// in double. Restricted to the tokens no worse than a cut and of weight at least min_weight.
// Sums are taken in one fixed order. Does not own the logits.
class LogitRow {
 public:
  LogitRow(std::span<const float> logits, double temperature);

  double Weight(float logit) const;
  float largest() const { return largest_; }
  // Sum of the weights.
  double Total(const Candidate& cut = kWorst, double min_weight = 0) const;
  // The token at `uniform` in [0, 1) of the total, in the order of ids.
  int32_t Draw(double uniform, const Candidate& cut, double min_weight) const;
  // The last of the smallest best-first prefix whose weight reaches `mass`; no worse than `cut`.
  // Linear time.
  Candidate CutAtMass(const Candidate& cut, double mass) const;

 private:
  // Writes the restricted weights of kBlock tokens or fewer from `begin` on, and returns their sum.
  double Weights(size_t begin, const Candidate& cut, double min_weight, double* weights) const;

  std::span<const float> logits_;
  float largest_ = 0;
  double scale_ = 1;  // 1 / temperature
};

}  // namespace trireme
