# scheduler.cc: a paused sequence that comes from another scheduler is not counted.
/^void Scheduler::Add/,/^}/s/if (sequence->paused) ++num_paused_;//
