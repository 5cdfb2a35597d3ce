#pragma once

#include <cstdint>
#include <memory>
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

// The largest logit; NaN counts as nothing, of equals the first. 0 if all are NaN.
int32_t ArgMax(std::span<const float> logits);

// The `count` best, best first; NaN counts as -infinity. Sorts no more than these: one pass keeps
// the best so far.
std::vector<Candidate> Best(std::span<const float> logits, size_t count);

// The softmax of one row, not normalised: the weights of kernels/token_weights.h, NaN nothing.
// Filters make tokens weigh nothing; none sorts the row. Does not own the logits.
class LogitWeights {
 public:
  LogitWeights(std::span<const float> logits, double temperature);

  float largest() const { return largest_; }
  uint64_t Total() const;
  // Keeps the smallest best-first prefix whose share of the total reaches `share`, at least one.
  void KeepShare(double share);
  // Drops what weighs less than `weight` of the largest.
  void KeepFrom(double weight);
  // The token at `uniform` in [0, 1) of the total, in the order of ids; -1 if nothing weighs
  // anything.
  int32_t Draw(double uniform) const;

 private:
  // Drops what is worse than `cut`.
  void KeepUpTo(const Candidate& cut);

  std::span<const float> logits_;
  float largest_ = 0;
  std::unique_ptr<uint64_t[]> memory_;
  std::span<uint64_t> weights_;
};

}  // namespace trireme
