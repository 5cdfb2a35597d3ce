#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "trireme/v1/worker.pb.h"

namespace trireme {

// Stands for a token that this rank has not been told: the i-th that its step has sampled, which
// StepBatch::ids has the same numbers for.
constexpr int32_t UnknownToken(size_t i) { return -1 - static_cast<int32_t>(i); }
constexpr bool IsUnknown(int32_t token_id) { return token_id < 0; }

// One sequence, as a rank knows it. Every rank knows how many tokens it has; which they are, only
// the ranks that need to.
struct RankSequence {
  std::vector<int32_t> token_ids;  // prompt and output, some unknown
  size_t prompt_tokens = 0;
  size_t computed = 0;  // tokens whose keys and values are in the cache
  std::vector<int32_t> block_table;
  v1::StepSampling sampling;
  uint64_t incarnation = 0;  // tells it from another that had or will have its id
  uint64_t last_plan = 0;    // the last plan that scheduled it, in plans applied
};

// The running sequences and the tokens on their way to this rank. Plans are input from outside:
// one that does not fit is an INTERNAL error that says why, and leaves the table of no further use.
class Sequences {
 public:
  struct Limits {
    int64_t vocab_size = 0;
    int64_t num_blocks = 0;  // that a sequence may have, numbered from 0
    int64_t block_size = 0;
    int64_t max_batched_tokens = 0;
  };

  Sequences() = default;
  explicit Sequences(const Limits& limits) : limits_(limits) {}

  // Brings the table up to the start of the plan's step: a new epoch forgets everything, then
  // finished sequences go, new ones come, and the scheduled ones get their blocks.
  absl::Status Apply(const v1::StepPlan& plan);

  // Forgets all sequences, also of an epoch that the next plan may happen to have again. No tokens
  // are on their way.
  void Clear() { sequences_.clear(); }

  // A scheduled sequence of the plan applied last. The reference lasts until the next Apply.
  const RankSequence& at(uint64_t id) const { return sequences_.at(id); }

  // Ends the plan's step: what it computed is computed, and the sampled sequences have one token
  // more, unknown ones, which Fill will bring if `to_fill`.
  void Finish(const v1::StepPlan& plan, bool to_fill);

  // Steps whose tokens Fill has still to bring.
  size_t steps_unfilled() const { return unfilled_.size(); }
  // How many tokens the oldest of them has sampled.
  size_t oldest_unfilled() const { return unfilled_.front().size(); }
  // The tokens of the oldest of them. Those of sequences that are gone are dropped.
  void Fill(std::span<const int32_t> sampled);
  // Whether the plan applied last computes a token that is unknown.
  bool ComputesUnknown(const v1::StepPlan& plan) const;
  // Whether it samples by tokens of which one is unknown: those of a penalised sequence.
  bool SamplesByUnknown(const v1::StepPlan& plan) const;

 private:
  struct Place {
    uint64_t id = 0;
    uint64_t incarnation = 0;
    size_t position = 0;
  };

  absl::Status Add(const v1::NewSequence& added);
  absl::Status Schedule(const v1::ScheduledSequence& scheduled);

  Limits limits_;
  absl::flat_hash_map<uint64_t, RankSequence> sequences_;
  std::deque<std::vector<Place>> unfilled_;  // a step's sampled tokens each, oldest first
  uint64_t last_epoch_ = 0;
  uint64_t incarnations_ = 0;
  uint64_t plans_ = 0;
};

}  // namespace trireme
