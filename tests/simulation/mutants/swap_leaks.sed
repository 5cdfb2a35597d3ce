# scheduler.cc: who ends while it is swapped out keeps its swap blocks.
/^void Scheduler::Finish/,/^}/s/swap_\.Release(sequence\.swap_table);//
