# scheduler.cc: a step may take one token too many.
/^void Scheduler::Schedule(/,/^}/{s/num_to_compute(), budget)/num_to_compute(), budget + 1)/;s/budget -= count;/budget -= std::min(count, budget);/}
