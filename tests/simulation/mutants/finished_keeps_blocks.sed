# scheduler.cc: who ends while running does not give its blocks back.
/^void Scheduler::Finish/,/^}/s/blocks_\.Release(sequence\.block_table);//
