// trireme-worker with a fault: a request of this seed crashes every rank that is to compute it. The
// linker puts this in the place of ModelRunner::Launch for those that call it (--wrap).

#include <algorithm>
#include <cstdlib>

#include "worker/model_runner.h"

namespace trireme {
namespace {

constexpr uint64_t kPoison = 666;

}  // namespace

// A member function's address and a function's that takes the object first are called alike.
absl::Status RealLaunch(ModelRunner* runner, const v1::StepPlan& plan) asm(
    "__real__ZN7trireme11ModelRunner6LaunchERKNS_2v18StepPlanE");
absl::Status Launch(ModelRunner* runner, const v1::StepPlan& plan) asm(
    "__wrap__ZN7trireme11ModelRunner6LaunchERKNS_2v18StepPlanE");

absl::Status Launch(ModelRunner* runner, const v1::StepPlan& plan) {
  const auto& added = plan.new_sequences();
  if (std::any_of(added.begin(), added.end(),
                  [](const auto& sequence) { return sequence.sampling().seed() == kPoison; })) {
    std::abort();
  }
  return RealLaunch(runner, plan);
}

}  // namespace trireme
