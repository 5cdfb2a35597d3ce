#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/block_manager.h"
#include "coordinator/sequence.h"
#include "coordinator/wait_queue.h"
#include "trireme/v1/inference.pb.h"
#include "trireme/v1/worker.pb.h"

namespace trireme {

struct SchedulerOptions {
  uint32_t max_num_seqs = 64;             // sequences running at once
  uint32_t max_num_batched_tokens = 512;  // tokens computed in one step
  uint32_t vocab_size = 0;                // a sampled token is below it
  // A sequence under which so many gangs die in a row, without a new token of it in between, may be
  // what kills them: until its next token it is computed alone. After gangs_lost_max it is given
  // up, but for each gang that died meanwhile without computing it, or was silent, one more is
  // granted, up to four times as many: then something else kills gangs.
  uint32_t gangs_lost_suspect = 2;
  uint32_t gangs_lost_max = 4;
  // One that a gang died under alone lets the others go first, for so many steps of the next: what
  // kills gangs without regard to what they compute shows itself.
  uint32_t suspect_stands_back = 16;
  // New sequences are told with all their tokens, also those that are cached: a plan with so many
  // takes no more, so that it stays far below the 64 MiB that workers receive.
  uint64_t announced_tokens_max = 2'000'000;
  bool prefix_caching = true;
  HashKey hash_key{};  // secret, drawn once per process
  WaitQueue::Options queue = {};
};

// What a gang offers while it lives.
struct GangCapacity {
  uint64_t epoch = 0;
  uint32_t pipeline_stages = 1;
  uint32_t kv_block_size = 0;
  uint32_t kv_blocks = 0;
  uint32_t swap_blocks = 0;  // host memory; numbered from kv_blocks on
  uint32_t max_model_len = 0;
  uint32_t max_num_batched_tokens = 0;

  // Whether a sequence that can come to so many tokens can run to its end.
  bool Holds(uint64_t tokens) const {
    return tokens <= max_model_len && tokens <= uint64_t{kv_blocks} * kv_block_size;
  }
};

// A token that a step has given to a sequence.
struct SequenceOutput {
  v1::SampledToken token;
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;  // set: the sequence is over
  uint32_t num_sampled = 0;    // tokens of the sequence so far, this one included
  uint32_t cached_tokens = 0;  // prompt tokens that were found in the prefix cache
};

struct StepOutput {
  std::vector<v1::PromptLogprob> prompt_logprobs;  // each position of a sequence once, in order
  std::vector<SequenceOutput> tokens;
};

struct SchedulerStats {
  uint64_t steps = 0;
  uint64_t tokens_prefilled = 0;
  uint64_t tokens_generated = 0;
  uint64_t prefix_tokens_asked = 0;
  uint64_t prefix_tokens_hit = 0;
  uint64_t preemptions = 0;
  uint64_t swaps = 0;
};

// Decides what every step of the gang computes: continuous batching (Yu et al. 2022) on a paged KV
// cache with chunked prefill (Agrawal et al. 2024). A pure state machine: no clock, thread or I/O,
// so the same calls give the same plans. Not thread safe. The policy is told in docs/scheduler.md.
//
//   GangReady → [Plan* → Apply]* → GangLost → GangReady …; Add, Take, Cancel, Pause, Resume at any
//   time.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options) : options_(options), queue_(options.queue) {}

  // Queues the continuations of one prompt, which they share; the first is their leader. They are
  // new, with ids that no other has, or come from another scheduler's Take. A gang, if there is
  // one, must hold them.
  void Add(std::vector<Sequence> siblings);

  // Ends continuations of one prompt here, without output, and returns them as they are without a
  // gang, for another scheduler to Add. None may be in a plan in flight.
  std::vector<Sequence> Take(std::span<const uint64_t> ids);

  // Ends a sequence without output; no effect if it has ended.
  void Cancel(uint64_t id);

  // A paused sequence is not computed, and the first to give way. No effect if it has ended.
  void Pause(uint64_t id);
  void Resume(uint64_t id);

  // The next step, or nothing if there is no work, no gang, or enough plans are in flight: one more
  // than there are pipeline stages, or any before that of a suspect.
  std::optional<v1::StepPlan> Plan();

  // Takes the result of the oldest plan in flight. A result of another epoch is dropped (no
  // output). Any other disagreement with the plan is an Internal error: the gang cannot be trusted
  // any more.
  absl::StatusOr<StepOutput> Apply(v1::StepResult result);

  // A gang starts to serve, with empty caches. It must hold every sequence.
  void GangReady(const GangCapacity& capacity);

  // The gang is gone: running sequences wait again, to be replayed with the tokens they have.
  // Returns those that lost too many gangs; they have ended. `silent`: it was given up because
  // nobody heard from it, which is the fault of hosts and networks rather than of what it computed.
  std::vector<uint64_t> GangLost(bool silent = false);

  // Tokens of a step in which others decode; at least a few more than decode. What one step may
  // keep a stream waiting for its next token.
  void SetMixedStepTokens(uint32_t tokens) { mixed_step_tokens_ = tokens; }

  bool has_gang() const { return capacity_.has_value(); }
  // Of the gang, if there is one.
  const std::optional<GangCapacity>& capacity() const { return capacity_; }
  // Whether such a gang could take over all sequences.
  bool AllFit(const GangCapacity& capacity) const;
  size_t plans_in_flight() const { return in_flight_.size(); }
  // Of the plans in flight; 0 if there are none.
  uint64_t oldest_step() const { return in_flight_.empty() ? 0 : in_flight_.front().step; }
  size_t num_sequences() const { return sequences_.size(); }
  size_t num_running() const { return running_.size(); }
  size_t num_paused() const { return num_paused_; }
  // All that neither run nor have ended.
  size_t num_waiting() const { return sequences_.size() - running_.size(); }
  // Running, waiting, paused, or waiting for their leader's prompt.
  size_t num_sequences_of(const std::string& tenant) const {
    return queue_.TenantSequences(tenant);
  }
  // Prompt tokens to be computed before a new sequence of this class would get its turn.
  uint64_t TokensAhead(v1::Priority priority) const;
  uint64_t SequencesAhead(v1::Priority priority) const { return queue_.SequencesAhead(priority); }
  // Tokens still to be computed until all have ended, if none ends before its max_tokens.
  uint64_t TokensOutstanding() const;
  // The first of these tokens whose keys and values the gang still has.
  uint32_t CachedTokens(const BlockHash& cache_root, std::span<const int32_t> tokens) const;
  const SchedulerStats& stats() const { return stats_; }
  const BlockManager& blocks() const { return blocks_; }
  const BlockManager& swap() const { return swap_; }
  const Sequence* Find(uint64_t id) const;

  // Whether blocks, queues and sequences agree. Internal error otherwise; for tests.
  absl::Status CheckIntegrity() const;

 private:
  struct InFlight {
    uint64_t step = 0;
    std::vector<uint64_t> sampled_ids;  // in the order of the plan
  };
  // Blocks that an admission finds, before it takes them.
  struct Prefix {
    std::vector<uint32_t> shared;    // full blocks with the sequence's first tokens
    std::optional<uint32_t> source;  // the next block is a copy of this one's beginning
    uint32_t computed = 0;           // tokens in all of them
  };

  uint64_t step() const { return last_step_ + 1; }  // being planned
  uint32_t token_budget() const;
  uint32_t running_max() const;
  uint64_t reserve() const;
  void Queue(Sequence& sequence);
  bool IsSuspect(const Sequence& sequence) const {
    return sequence.gangs_lost >= options_.gangs_lost_suspect;
  }
  bool IsGivenUp(const Sequence& sequence) const {
    const uint32_t granted = std::min(sequence.gangs_lost_without, 3 * options_.gangs_lost_max);
    return sequence.gangs_lost >= options_.gangs_lost_max + granted;
  }
  void InsertRunning(Sequence& sequence);

  // Preempts running sequences for a waiting one of a higher class, if that helps.
  void MakeRoom();
  bool Fits(const Sequence& waiting) const;
  void ScheduleRunning(v1::StepPlan& plan, uint32_t& budget);
  bool Eligible(const Sequence& sequence, bool any_step) const;
  bool ScheduleDecodes(v1::StepPlan& plan, uint32_t& budget, bool any_step);
  // Adds up to `budget` tokens of a sequence whose blocks from `known_blocks` on are new to the
  // workers.
  void Schedule(Sequence& sequence, size_t known_blocks, uint32_t& budget, v1::StepPlan& plan);
  // Blocks for the sequence's next token. False if it had to give way itself.
  bool GrowTable(Sequence& sequence);
  Sequence* Victim(const Sequence& for_whom) const;
  void Preempt(Sequence& sequence);
  void SwapOut(Sequence& sequence);

  // The suspect whose turn it is to be computed alone; null if there is none. The one under which
  // the fewest gangs died: those that only happened to be there get on before what kills gangs, and
  // do not reach gangs_lost_max by faults that follow each other closely.
  Sequence* NextSuspect() const;
  void PlanAlone(Sequence& suspect, v1::StepPlan& plan);
  // Those that stand back need not any more; false if none does.
  bool CallSuspects();
  bool AdmitNext(uint32_t& budget, v1::StepPlan& plan);
  bool Admit(Sequence& sequence, uint32_t& budget, v1::StepPlan& plan);
  Prefix FindPrefix(Sequence& sequence);
  bool IsFresh(uint32_t block) const;
  uint32_t ComputedBefore(const Sequence& sequence) const;
  bool TakeBlocks(Sequence& sequence, const Prefix& prefix);
  void SwapIn(Sequence& sequence, size_t first_block);
  void Announce(Sequence& sequence, v1::StepPlan& plan);
  void HashBlocks(Sequence& sequence, size_t count);
  void Publish(Sequence& sequence);
  void ReleaseFollowers(uint64_t leader_id);

  absl::Status CheckResult(const v1::StepResult& result) const;
  absl::Status CheckPromptLogprobs(const v1::StepResult& result) const;
  SequenceOutput Accept(Sequence& sequence, v1::SampledToken&& token);
  void Finish(Sequence& sequence);
  absl::Status CheckSequence(const Sequence& sequence) const;

  const SchedulerOptions options_;
  std::optional<GangCapacity> capacity_;
  BlockManager blocks_;
  BlockManager swap_;  // numbers from 0; plans add kv_blocks
  absl::flat_hash_map<uint64_t, std::unique_ptr<Sequence>> sequences_;  // all that have not ended
  WaitQueue queue_;
  std::vector<Sequence*> running_;  // highest class first, then oldest first
  absl::flat_hash_map<uint64_t, std::vector<uint64_t>> followers_;  // by leader id
  std::vector<uint32_t> fresh_blocks_;  // published by the step being planned, which computes them
  std::vector<uint64_t> leaders_done_;  // their prompt is computed by the step being planned
  std::vector<uint64_t> unsent_finished_;  // ended or preempted, but the workers do not know yet
  std::vector<v1::BlockCopy> unsent_copies_;
  std::set<uint64_t> suspects_;
  std::deque<InFlight> in_flight_;
  uint64_t last_step_ = 0;  // of this epoch
  size_t num_paused_ = 0;
  bool preempted_ = false;         // by the step being planned, for want of blocks
  uint64_t announced_tokens_ = 0;  // in the plan being made
  uint32_t mixed_step_tokens_ = UINT32_MAX;
  SchedulerStats stats_;
};

}  // namespace trireme
