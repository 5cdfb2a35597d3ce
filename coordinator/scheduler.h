#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/block_manager.h"
#include "coordinator/sequence.h"
#include "trireme/v1/inference.pb.h"
#include "trireme/v1/worker.pb.h"

namespace trireme {

struct SchedulerOptions {
  uint32_t max_num_seqs = 64;             // sequences running at once
  uint32_t max_num_batched_tokens = 512;  // tokens computed in one step
  uint32_t vocab_size = 0;                // a sampled token is below it
  uint32_t gangs_lost_max = 3;  // a sequence that saw so many gangs die may be what kills them
};

// What a gang offers while it lives.
struct GangCapacity {
  uint64_t epoch = 0;
  uint32_t kv_block_size = 0;
  uint32_t kv_blocks = 0;
  uint32_t max_model_len = 0;
  uint32_t max_num_batched_tokens = 0;
};

// A token that a step has given to a sequence.
struct SequenceOutput {
  v1::SampledToken token;
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;  // set: the sequence is over
};

// Decides what every step of the gang computes. A pure state machine: no clock, thread or I/O, so
// the same calls give the same plans. Not thread safe.
//
// A step decodes one token of every running sequence and spends what is left of the token budget on
// prefill, in chunks, oldest sequence first. A sequence starts when blocks for all tokens it can
// come to are free, so a running one never has to give way. One plan is in flight at a time.
//
//   GangReady → [Plan → Apply]* → GangLost → GangReady …; Add and Cancel at any time.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options) : options_(options) {}

  // Queues a new sequence. Its id must be larger than those before, its prompt not empty.
  void Add(Sequence sequence);

  // Ends a sequence without output; no effect if it has ended.
  void Cancel(uint64_t id);

  // The next step, or nothing if there is no work, no gang, or a plan in flight.
  std::optional<v1::StepPlan> Plan();

  // Takes the result of the plan in flight. A result of another epoch is dropped (no output). Any
  // other disagreement with the plan is an Internal error: the gang cannot be trusted any more.
  absl::StatusOr<std::vector<SequenceOutput>> Apply(const v1::StepResult& result);

  // A gang starts to serve, with empty caches. Returns the sequences that can never fit it; they
  // have ended.
  std::vector<uint64_t> GangReady(const GangCapacity& capacity);

  // The gang is gone: running sequences wait again, to be replayed with the tokens they have.
  // Returns those that lost too many gangs; they have ended.
  std::vector<uint64_t> GangLost();

  bool has_gang() const { return capacity_.has_value(); }
  bool plan_in_flight() const { return in_flight_.has_value(); }
  size_t num_waiting() const { return waiting_.size(); }
  size_t num_running() const { return running_.size(); }
  uint64_t steps() const { return steps_; }
  uint64_t tokens_generated() const { return tokens_generated_; }
  const BlockManager& blocks() const { return blocks_; }
  const Sequence* Find(uint64_t id) const;

  // Whether blocks and queues agree with the sequences. Internal error otherwise; for tests.
  absl::Status CheckIntegrity() const;

 private:
  struct InFlight {
    uint64_t step = 0;
    std::vector<uint64_t> sampled_ids;  // in the order of the plan
  };

  Sequence& Get(uint64_t id);
  uint32_t token_budget() const;
  // Adds up to `budget` tokens of the sequence to the plan; returns how many.
  uint32_t Schedule(Sequence& sequence, uint32_t budget, v1::StepPlan& plan);
  // Gives the oldest waiting sequence its blocks and tells the workers of it, if it fits now.
  bool AdmitNext(v1::StepPlan& plan);
  absl::Status CheckResult(const v1::StepResult& result) const;
  SequenceOutput Accept(Sequence& sequence, const v1::SampledToken& token);
  void Finish(Sequence& sequence);

  const SchedulerOptions options_;
  std::optional<GangCapacity> capacity_;
  BlockManager blocks_;
  std::map<uint64_t, Sequence> sequences_;  // all that have not ended
  std::deque<uint64_t> waiting_;            // ascending ids
  std::vector<uint64_t> running_;           // ascending ids, all below those waiting
  std::vector<uint64_t> unsent_finished_;   // ended, but the workers do not know yet
  std::optional<InFlight> in_flight_;
  uint64_t last_step_ = 0;  // of this epoch
  uint64_t steps_ = 0;
  uint64_t tokens_generated_ = 0;
};

}  // namespace trireme
