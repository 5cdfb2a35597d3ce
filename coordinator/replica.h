#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/load_estimate.h"
#include "coordinator/scheduler.h"
#include "trireme/v1/cluster.pb.h"
#include "trireme/v1/worker.pb.h"

namespace trireme {

struct ReplicaOptions {
  SchedulerOptions scheduler;
  std::chrono::milliseconds step_target{0};  // of steps that mix prefill and decode; 0: no target
  std::chrono::milliseconds step_timeout{120'000};
  std::chrono::milliseconds slow_step{4'000};  // to be told of a step that takes longer
};

// One gang as the engine drives it: the scheduler with its requests, the plans that are not
// answered and until when they must be, and how fast the gang has been lately. Outlives its gang:
// requests that no other gang can take wait in it for the next one. No clock, no I/O: it is told
// the time. Not thread safe.
class Replica {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit Replica(const ReplicaOptions& options)
      : options_(options), scheduler_(options.scheduler) {}

  Scheduler& scheduler() { return scheduler_; }
  const Scheduler& scheduler() const { return scheduler_; }
  LoadEstimate& load() { return load_; }
  const LoadEstimate& load() const { return load_; }

  // A gang begins to serve; it must hold all sequences. Those with tokens are of its `version`.
  void Begin(const GangCapacity& capacity, const std::string& version);
  // It is gone. Another must begin until `give_up`, or what waits is in vain. Returns the sequences
  // that lost too many gangs; they have ended. `silent`: Scheduler::GangLost.
  struct Wait {
    Time give_up{};
    Time latest{};  // that WaitUntil may make it
  };
  std::vector<uint64_t> End(const std::string& reason, const Wait& wait, bool silent);
  // Moves `give_up`, if a gang is awaited, but never back.
  void WaitUntil(Time give_up);

  bool serves() const { return scheduler_.has_gang(); }
  // Whether it takes new work.
  bool accepts() const { return serves() && !draining_.has_value(); }
  uint64_t epoch() const { return serves() ? scheduler_.capacity()->epoch : 0; }
  // Whether a gang was lost and may still come back in time.
  bool awaits_gang() const { return gang_deadline_.has_value(); }
  // No gang came in time.
  void GiveUp() { gang_deadline_.reset(); }
  // Why the last gang was lost.
  const std::string& lost_reason() const { return lost_reason_; }

  // Whether the gang can compute a request that has begun with a version, or has not begun.
  bool CanTake(const std::optional<std::string>& version, uint64_t tokens_max) const {
    return serves() && WouldTake(version, tokens_max);
  }
  // Whether the gang can, or the last one could.
  bool WouldTake(const std::optional<std::string>& version, uint64_t tokens_max) const {
    return version.value_or(version_) == version_ && capacity_.Holds(tokens_max);
  }

  // Of the gang's model, or the last one's.
  const std::string& version() const { return version_; }
  // Of the gang, or the last one.
  const GangCapacity& capacity() const { return capacity_; }

  // It takes no new work. No more plans either, unless it is to `finish` what it has; the gang may
  // be ended when it owes no result.
  void Drain(const std::string& reason) { draining_ = reason; }
  void SetFinishes(bool finishes) { finishes_ = finishes; }
  // Why it drains, if it does.
  const std::optional<std::string>& draining() const { return draining_; }
  bool drained() const {
    return draining_.has_value() && !finishes_ && scheduler_.plans_in_flight() == 0;
  }

  // The next plan to be sent, if there is one.
  std::optional<v1::StepPlan> Plan(Time now);
  // The oldest plan's result. Errors as Scheduler::Apply.
  absl::StatusOr<StepOutput> Apply(v1::StepResult result, Time now);

  // When the oldest plan must be answered, or the next gang be there; nothing if neither is due.
  std::optional<Time> step_deadline() const { return step_deadline_; }
  // When the oldest plan will have taken much longer than the one before it, once.
  std::optional<Time> slow_step() const { return slow_step_; }
  void ForgetSlowStep() { slow_step_.reset(); }
  std::optional<Time> gang_deadline() const { return gang_deadline_; }

  // What goes before a new request.
  LoadEstimate::Queue QueueAhead(v1::Priority priority, size_t prompt_tokens) const;

  // Adds what it computes now and has computed so far.
  void AddTo(v1::GetStatsResponse& stats) const;

 private:
  struct SentPlan {
    uint32_t tokens = 0;
    bool gang_had_work = false;  // it idled only because the plan was late
  };
  struct Milliseconds {
    double step = 0, idle = 0, bubble = 0;
  };

  void CountStep(const Milliseconds& took, Time now);
  void AwaitStep(Time now);

  const ReplicaOptions options_;
  Scheduler scheduler_;
  LoadEstimate load_;
  std::deque<SentPlan> sent_plans_;
  bool dry_ = true;  // all work was done when the last plan came back
  Milliseconds total_;
  double last_step_ms_ = 0;
  std::optional<Time> step_deadline_;
  std::optional<Time> slow_step_;
  std::optional<Time> gang_deadline_;
  Time latest_gang_deadline_{};
  std::string lost_reason_;
  std::string version_;
  GangCapacity capacity_;
  std::optional<std::string> draining_;
  bool finishes_ = false;  // if it drains: what only this version can
};

}  // namespace trireme
