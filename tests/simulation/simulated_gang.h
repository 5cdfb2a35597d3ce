#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/scheduler.h"
#include "tests/simulation/history.h"
#include "trireme/v1/worker.pb.h"

namespace trireme::simulation {

// A gang whose KV cache holds, in every slot, the history of what was stored there instead of its
// keys and values. Attention looks at every slot of a sequence: a block shared wrongly, reused too
// early, copied at the wrong time or swapped in stale is seen by what is in it. Refuses every plan
// that a worker would refuse.
class SimulatedGang {
 public:
  // `space_of` tells the namespace of a sequence, which plans do not carry.
  SimulatedGang(const GangCapacity& capacity, const SchedulerOptions& options,
                std::function<uint64_t(uint64_t)> space_of);

  // Computes a plan. An error says what is wrong with it.
  absl::StatusOr<v1::StepResult> Step(const v1::StepPlan& plan);

  size_t num_sequences() const { return sequences_.size(); }
  bool Knows(uint64_t id) const { return sequences_.contains(id); }

 private:
  struct State {
    v1::StepSampling sampling;
    uint32_t num_prompt = 0;
    std::vector<History> histories;  // of each known token
    uint32_t computed = 0;
    uint64_t added_step = 0;
    std::vector<uint32_t> blocks;
  };

  absl::Status RemoveFinished(const v1::StepPlan& plan);
  absl::Status Copy(const v1::StepPlan& plan);
  absl::Status AddNew(const v1::StepPlan& plan);
  absl::Status ExtendTables(const v1::StepPlan& plan);
  absl::Status Store(const v1::ScheduledSequence& scheduled);
  absl::Status Attend(uint64_t id, const State& state) const;
  absl::Status Answer(const v1::ScheduledSequence& scheduled, v1::StepResult& result);

  const GangCapacity capacity_;
  const uint32_t token_budget_;
  const uint32_t max_num_seqs_;
  const uint32_t vocab_size_;
  const std::function<uint64_t(uint64_t)> space_of_;
  uint64_t step_ = 0;
  std::map<uint64_t, State> sequences_;
  std::vector<History> slots_;  // of all blocks, the pool's and then the swap space's
  // How many tables name a block; those of sequences that the step adds not counted.
  std::vector<uint32_t> names_;
};

}  // namespace trireme::simulation
