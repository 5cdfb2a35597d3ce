# scheduler.cc: the workers do not learn who has ended.
/^void Scheduler::Finish/,/^}/s/unsent_finished_\.push_back(id);//
