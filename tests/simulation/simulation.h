#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/scheduler.h"
#include "tests/simulation/oracle.h"
#include "tests/simulation/random.h"
#include "tests/simulation/simulated_gang.h"

namespace trireme::simulation {

// One life of a scheduler, drawn from a seed: requests that come, are cancelled, pause and go on;
// plans ahead of slow results; gangs that die or drain, results they leave behind, and gangs of
// another size that follow, of this scheduler or of another one to which all move. After every
// event the scheduler's books, what the gang saw and what the clients heard are checked.
class Simulation {
 public:
  Simulation(uint64_t seed, bool trace);

  // An error says what went wrong.
  absl::Status Run();

 private:
  enum class Event {
    kArrive,
    kCancel,
    kPause,
    kResume,
    kDeliver,
    kLose,
    kStale,
    kMixedTokens,
    kCount
  };

  void DrawWeights();
  Event DrawEvent();
  GangCapacity DrawCapacity();
  std::vector<int32_t> DrawPrompt(uint32_t tokens);
  std::optional<uint64_t> DrawOpen();

  absl::Status Happen(Event event);
  absl::Status Arrive();
  void Add(uint32_t count, std::vector<int32_t> prompt, uint32_t max_tokens);
  absl::Status Ready();
  absl::Status Lose();
  absl::Status Move();
  absl::Status Stale();
  absl::Status PlanAll();
  absl::Status PlanOnce(bool& planned);
  absl::Status Deliver();
  absl::Status Drain();

  absl::Status CheckAll();
  bool IsSuspect(const Sequence& sequence) const;
  bool HasSuspects() const;
  absl::Status CheckAlone(const v1::StepPlan& plan) const;
  absl::Status CheckOrder(const v1::StepPlan& plan, const std::vector<uint64_t>& waited,
                          const std::vector<uint64_t>& ran) const;
  absl::Status CheckStarvation();
  absl::Status CheckIdle() const;
  void Trace(const std::string& line) const;
  void TracePlan(const v1::StepPlan& plan) const;

  const uint64_t seed_;
  const bool trace_;
  Random random_;
  const SchedulerOptions options_;
  std::optional<Scheduler> scheduler_;  // always one
  Oracle oracle_;
  std::vector<uint32_t> weights_;            // of events
  std::vector<std::vector<int32_t>> texts_;  // prompts begin like one of these
  bool eager_ = true;                        // plans are asked for whenever there may be one
  uint32_t tail_vocab_ = 2;                  // how much prompts differ behind their beginning
  uint32_t prompt_max_ = 1;
  uint32_t answer_max_ = 1;
  uint32_t pool_factor_ = 1;
  uint32_t spaces_ = 1;    // per tenant
  GangCapacity capacity_;  // of the gang, or of the last one
  std::unique_ptr<SimulatedGang> gang_;
  std::deque<v1::StepResult> results_;  // computed, but not told
  std::vector<v1::StepResult> stale_;   // of gangs that are gone
  uint64_t next_id_ = 1;
  uint64_t epoch_ = 0;
  uint64_t event_ = 0;
  uint64_t plans_ = 0;
  // Who has waited longest, if for too long, since which step, and when it must have had its turn.
  std::pair<uint64_t, uint64_t> starved_{0, 0};
  uint64_t starved_deadline_ = 0;
};

// Runs seeds until one fails; the error names it and says how to replay it. `seed` holds the last
// one that ran.
absl::Status RunSeeds(uint64_t first, uint64_t count, uint64_t& seed);

}  // namespace trireme::simulation
