# scheduler.cc: results of gangs that are gone are taken.
s/ || result\.epoch() != capacity_->epoch) return output;/) return output;/
