# scheduler.cc: who is preempted runs again before its last token is known.
/^void Scheduler::Queue/,/^}/s/!sequence\.Runnable()/sequence.paused || sequence.follows/
