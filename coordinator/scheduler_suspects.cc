// Sequences under which gangs die: how they are computed.

#include "coordinator/scheduler.h"

namespace trireme {

Sequence* Scheduler::NextSuspect() const {
  Sequence* next = nullptr;
  for (const uint64_t id : suspects_) {
    Sequence* suspect = sequences_.at(id).get();
    if (suspect->paused || suspect->state == SequenceState::kHeld) continue;
    if (next == nullptr || suspect->gangs_lost < next->gangs_lost) next = suspect;
  }
  return next;
}

// One that runs has its blocks: it leaves the suspects with the token behind its prefill.
void Scheduler::PlanAlone(Sequence& suspect, v1::StepPlan& plan) {
  uint32_t budget = token_budget();
  if (suspect.state == SequenceState::kRunning) {
    return Schedule(suspect, suspect.block_table.size(), budget, plan);
  }
  while (!Admit(suspect, budget, plan)) Preempt(*running_.back());
}

bool Scheduler::CallSuspects() {
  bool any = false;
  for (const uint64_t id : suspects_) {
    Sequence& suspect = *sequences_.at(id);
    if (!suspect.stands_back) continue;
    suspect.stands_back = false;
    Queue(suspect);
    any = true;
  }
  return any;
}

}  // namespace trireme
