// What must hold between any two events of a simulation.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "tests/simulation/simulation.h"

namespace trireme::simulation {
namespace {

template <typename... Args>
absl::Status Wrong(const Args&... args) {
  return absl::InternalError(absl::StrCat(args...));
}

bool RunsBefore(const Sequence& a, const Sequence& b) {
  return a.priority != b.priority ? a.priority > b.priority : a.id < b.id;
}

}  // namespace

absl::Status Simulation::CheckAll() {
  RETURN_IF_ERROR(scheduler_->CheckIntegrity());
  if (scheduler_->num_sequences() != oracle_.open().size()) {
    return Wrong(scheduler_->num_sequences(), " sequences are kept, ", oracle_.open().size(),
                 " clients listen");
  }
  for (const auto& [id, client] : oracle_.open()) {
    if (scheduler_->Find(id) == nullptr) return Wrong("sequence ", id, " is lost");
  }
  return CheckStarvation();
}

bool Simulation::IsSuspect(const Sequence& sequence) const {
  return sequence.gangs_lost >= options_.gangs_lost_suspect;
}

bool Simulation::HasSuspects() const {
  return std::any_of(oracle_.open().begin(), oracle_.open().end(), [this](const auto& client) {
    const Sequence& sequence = *scheduler_->Find(client.first);
    return IsSuspect(sequence) && !sequence.paused && sequence.state != SequenceState::kHeld;
  });
}

// What may have killed gangs is computed with nothing else, before all else.
absl::Status Simulation::CheckAlone(const v1::StepPlan& plan) const {
  if (plan.scheduled_size() != 1 || scheduler_->plans_in_flight() != 1) {
    return Wrong("a suspect is computed with others");
  }
  if (IsSuspect(*scheduler_->Find(plan.scheduled(0).id()))) return absl::OkStatus();
  return Wrong("sequence ", plan.scheduled(0).id(), " is computed before suspects");
}

// Classes are strict: nobody is admitted while one of a higher class waits on, unless it is
// starved; nobody is preempted while one that should give way before it runs on; and nobody runs
// who is paused.
absl::Status Simulation::CheckOrder(const v1::StepPlan& plan, const std::vector<uint64_t>& waited,
                                    const std::vector<uint64_t>& ran) const {
  const uint64_t steps = scheduler_->stats().steps;
  const auto starved = [&](const Sequence& sequence) {
    return steps > sequence.queued_step + options_.queue.starvation_steps;
  };
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    if (scheduler_->Find(scheduled.id())->paused) return Wrong(scheduled.id(), " is paused");
  }
  if (HasSuspects()) return CheckAlone(plan);
  for (const uint64_t id : waited) {
    const Sequence& waits = *scheduler_->Find(id);
    if (waits.state != SequenceState::kWaiting) continue;
    for (const v1::NewSequence& added : plan.new_sequences()) {
      const Sequence& admitted = *scheduler_->Find(added.id());
      if (!starved(admitted) && admitted.priority < waits.priority) {
        return Wrong("sequence ", admitted.id, " is admitted before ", waits.id);
      }
    }
  }
  const auto runs_on = [&](const Sequence& sequence) {
    return sequence.state == SequenceState::kRunning &&
           std::none_of(plan.new_sequences().begin(), plan.new_sequences().end(),
                        [&](const auto& added) { return added.id() == sequence.id; });
  };
  for (const uint64_t preempted_id : ran) {
    const Sequence& preempted = *scheduler_->Find(preempted_id);
    if (preempted.paused || runs_on(preempted)) continue;
    for (const uint64_t id : ran) {
      const Sequence& runs = *scheduler_->Find(id);
      if (runs_on(runs) && (runs.paused || RunsBefore(preempted, runs))) {
        return Wrong("sequence ", preempted_id, " gave way before ", id);
      }
    }
  }
  return absl::OkStatus();
}

// Who has waited for more than starvation_steps goes first, the longest waiting of them before the
// others. From then on nobody else is admitted, and every step computes at least one token of
// those that run: they have ended after as many steps as they have tokens to come, and those of the
// plans in flight. Suspects hold all others up.
absl::Status Simulation::CheckStarvation() {
  const Sequence* longest = nullptr;
  for (const auto& [id, client] : oracle_.open()) {
    const Sequence* sequence = scheduler_->Find(id);
    if (sequence->state != SequenceState::kWaiting) continue;
    if (longest == nullptr || sequence->queued_step < longest->queued_step) longest = sequence;
  }
  const uint64_t steps = scheduler_->stats().steps;
  if (gang_ == nullptr || longest == nullptr || HasSuspects() ||
      steps <= longest->queued_step + options_.queue.starvation_steps) {
    starved_ = {};
    return absl::OkStatus();
  }
  const std::pair<uint64_t, uint64_t> who{longest->id, longest->queued_step};
  if (who == starved_) {
    if (steps <= starved_deadline_) return absl::OkStatus();
    return Wrong("sequence ", longest->id, " has waited since step ", longest->queued_step,
                 ", which is ", steps - longest->queued_step, " steps ago");
  }
  starved_ = who;
  starved_deadline_ = steps + capacity_.pipeline_stages + 2;
  for (const auto& [id, client] : oracle_.open()) {
    const Sequence* sequence = scheduler_->Find(id);
    if (sequence->state != SequenceState::kRunning) continue;
    starved_deadline_ += sequence->tokens_max() - sequence->num_computed;
  }
  return absl::OkStatus();
}

// Plans were asked for until there were no more: unless results are to come, nobody may be left who
// could run.
absl::Status Simulation::CheckIdle() const {
  if (scheduler_->plans_in_flight() > 0) return absl::OkStatus();
  for (const auto& [id, client] : oracle_.open()) {
    const Sequence* sequence = scheduler_->Find(id);
    const bool could_run = !sequence->paused && !sequence->follows;
    if (could_run) return Wrong("nothing is planned, but sequence ", id, " could run");
  }
  return absl::OkStatus();
}

}  // namespace trireme::simulation
