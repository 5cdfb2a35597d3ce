# scheduler.cc: followers copy from a leader that this very step computes.
s/leaders_done_\.push_back(sequence\.id);/ReleaseFollowers(sequence.id);/
/^uint32_t Scheduler::ComputedBefore/,/^}/s/return .*/return sequence.num_computed;/
