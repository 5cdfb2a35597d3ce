#pragma once

#include "absl/status/status.h"
#include "parallel/communicator.h"

namespace trireme {

// Before ranks do something together that one of them may not come to: tells every rank whether all
// succeeded so far. If not, all get the same error, "rank 2: ...", of the first rank that failed by
// itself; one that only waited in vain for another (ABORTED, UNAVAILABLE, DEADLINE_EXCEEDED) counts
// where no other has failed. An error that was agreed on before is returned as it is. Collective.
// Where the ranks cannot tell each other: this rank's own error, or the communicator's, and
// IsAgreed is false.
absl::Status Agree(const absl::Status& mine, Communicator& world);

// Whether every rank has this error.
bool IsAgreed(const absl::Status& error);

}  // namespace trireme
