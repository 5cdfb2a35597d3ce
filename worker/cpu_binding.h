#pragma once

#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

// The CPUs (as the system numbers them) that this rank's threads stay on, one each: its share of
// those the process may run on, a core of its own for each thread before a core gets a second one.
// `local_rank` of `local_size` ranks on this host, all with as many threads.
//
// Empty if the ranks' threads together do not take all of these CPUs: then other work may be meant
// to have the rest, and the system places threads better than we can. Reads the topology with
// hwloc.
absl::StatusOr<std::vector<int>> ChooseCpus(int threads, int local_rank, int local_size);

// The NUMA node of all CPUs that this process may run on; -1 if there are several, or none is
// known.
int NumaNodeOfProcess();

}  // namespace trireme
