#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "cluster/planner/cost_model.h"

namespace trireme {

// What one gang of a simulated cluster can do.
struct ReplicaSpec {
  int stages = 1;
  int64_t block_size = 32;  // tokens
  int64_t kv_blocks = 0;
  int64_t max_num_seqs = 64;  // computed at once
  int64_t max_num_batched_tokens = 512;
  double max_step_s = 0;  // of steps that also decode: prompts are cut accordingly; 0: no bound
  // The parts of a step are computed together. Pure.
  std::function<StepTimes(std::span<const StepTokens>)> step_times;
};

// A request on its way. Times are seconds of the simulation.
struct SimulatedSequence {
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  double arrival_s = 0;
  std::optional<double> admitted_s = {};
  std::optional<double> first_token_s = {};
  std::optional<double> end_s = {};
  bool failed = false;
  int gangs_lost = 0;          // in a row, without a token in between
  int64_t generated_lost = 0;  // tokens when it last lost one

  int64_t generated = 0;     // tokens that came back
  int64_t pending = 0;       // tokens that plans in flight sample
  int64_t computed = 0;      // tokens in the KV cache, those of plans in flight counted
  int64_t computed_max = 0;  // as far as it ever came: what is below it is recomputed
  int64_t blocks = 0;
  uint64_t last_plan = 0;
  double known_s = 0;  // when its last pending token comes back

  int64_t tokens() const { return prompt_tokens + generated + pending; }
  int64_t to_compute() const { return tokens() - computed; }
  bool ends_in_flight() const { return generated + pending == output_tokens; }
  bool decodes() const { return to_compute() == 1 && !ends_in_flight(); }
};

struct ReplicaCounts {
  uint64_t steps = 0;
  uint64_t preemptions = 0;
  int64_t tokens_prefilled = 0;   // of prompts, and again of what was lost
  int64_t tokens_recomputed = 0;  // of these, lost by a failure or a preemption before
  int64_t tokens_generated = 0;
  double kv_block_seconds = 0;  // blocks in use over time
  int64_t kv_blocks_max = 0;
};

// The scheduler of one gang as docs/scheduler.md has it, in simulated time: continuous batching
// with chunked prefill, decodes first, admission by age while blocks suffice, preemption of the
// youngest, plans one ahead of the pipeline. Without prefix caching, priorities and tenants.
// Sequences are named by their index in a list that the caller owns, the older the lower. Not
// thread safe.
class SimulatedReplica {
 public:
  SimulatedReplica(const ReplicaSpec& spec, std::vector<SimulatedSequence>& sequences)
      : spec_(spec), sequences_(sequences) {}

  void Add(uint32_t id) { waiting_.insert(id); }
  // Issues plans as far as they go. The time never decreases from call to call.
  void Issue(double now_s);
  // When the oldest plan in flight is done, if there is one.
  std::optional<double> NextDone() const;
  // Takes the result of that plan, and says which sequences have ended.
  std::vector<uint32_t> Complete();
  // The gang is gone, with its cache and its plans. Returns the sequences that ran on it; they and
  // those that wait are no longer its own.
  struct Lost {
    std::vector<uint32_t> running;
    std::vector<uint32_t> waiting;
  };
  Lost Lose(double now_s);

  size_t load() const { return running_.size() + waiting_.size(); }
  const ReplicaCounts& counts() const { return counts_; }

 private:
  struct Item {
    uint32_t id = 0;
    int64_t end = 0;  // tokens computed with it
    bool samples = false;
  };
  struct Plan {
    double done_s = 0;
    std::vector<Item> items;
  };

  int64_t BlocksFor(int64_t tokens) const;
  void Use(int64_t blocks, double now_s);
  bool Draw(double now_s, Plan& plan);
  bool DrawDecodes(double now_s, bool any_step, int64_t& budget, Plan& plan);
  int64_t PrefillBudget(int64_t budget);
  bool Admit(double now_s, int64_t& budget, Plan& plan);
  bool Grow(uint32_t id, double now_s);
  void Preempt(uint32_t id, double now_s);
  void Release(SimulatedSequence& sequence, double now_s);
  void Schedule(uint32_t id, int64_t& budget, Plan& plan);

  const ReplicaSpec& spec_;
  std::vector<SimulatedSequence>& sequences_;
  std::set<uint32_t> waiting_;
  std::vector<uint32_t> running_;  // oldest first
  std::deque<Plan> in_flight_;
  uint64_t last_plan_ = 0;
  double stage_free_s_ = 0;  // when the first stage can begin the next plan
  double last_done_s_ = 0;
  int64_t used_blocks_ = 0;
  double used_since_s_ = 0;
  // Of the plan being drawn.
  std::vector<StepTokens> parts_;
  int64_t decodes_ = 0;
  int64_t decode_context_ = 0;  // sum
  double tokens_known_s_ = 0;
  bool preempted_ = false;
  ReplicaCounts counts_;
};

}  // namespace trireme
