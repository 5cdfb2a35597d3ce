#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "trireme/v1/worker.pb.h"

namespace trireme {

// A coordinator sends every rank of a gang the same messages in the same order, and may die between
// two ranks. Gives each rank those that only others have got. Collective over `ranks`, when no more
// will come: `received` is how many this rank has, `latest` are the last of them. INTERNAL if a
// rank lacks one that is not among the latest of another.
absl::StatusOr<std::vector<v1::CoordinatorMessage>> MissedMessages(
    uint64_t received, const std::deque<v1::CoordinatorMessage>& latest, Communicator& ranks);

}  // namespace trireme
