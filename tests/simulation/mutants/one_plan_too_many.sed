# scheduler.cc: more plans are in flight than the driver allows.
s/in_flight_\.size() > capacity_->pipeline_stages)/in_flight_.size() > capacity_->pipeline_stages + 1)/
