# scheduler.cc: log probabilities of a prompt that is computed again are told again.
/^absl::StatusOr<StepOutput> Scheduler::Apply/,/^}/s/if (logprob\.position() <= delivered) continue;.*//
