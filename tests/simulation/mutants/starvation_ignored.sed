# wait_queue.cc: who has waited for too long waits on.
s/if (!by_age_\.empty() && Starved(/if (false \&\& Starved(/
