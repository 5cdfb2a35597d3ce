# scheduler.cc: a paused sequence decodes on.
/^bool Scheduler::Eligible/,/^}/s/!sequence\.paused && //
