# scheduler.cc: whoever should be the last to be preempted is the first.
/^Sequence\* Scheduler::Victim/,/^}/{s/std::find_if(running_\.rbegin(), running_\.rend(), free)/std::find_if(running_.begin(), running_.end(), free)/;s/CHECK(victim.*//}
