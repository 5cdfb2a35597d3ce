# scheduler.cc: a suspect that comes from another scheduler is one no more.
/^void Scheduler::Add/,/^}/s/if (IsSuspect(\*sequence)) suspects_\.insert(sequence->id);//
