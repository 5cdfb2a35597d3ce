# scheduler.cc: the workers do not learn who was preempted.
/^void Scheduler::Preempt/,/^}/s/unsent_finished_\.push_back(sequence\.id);//
