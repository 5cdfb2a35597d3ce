#pragma once

#include <string>
#include <vector>

#include "trireme/v1/worker.pb.h"

namespace trireme {

// "rank 3 (node7)"
std::string RankName(const v1::Register& registration);

// Where a rank is and what it was last known to do: "rank 3 (node7), pid 12, last seen in step 4,
// waiting for rank 2: all-reduce of 4096 bytes".
std::string Whereabouts(const v1::Register& registration, const v1::Progress& progress);

// A rank of a gang of which none gets on.
struct StuckRank {
  const v1::Register* registration = nullptr;  // not owned
  const v1::Progress* progress = nullptr;
};

// Who waits for whom, and who or what is missing, in one line. `ranks` are those of a gang by rank,
// of which at least one waits for others. Those that are the furthest behind tell why.
std::string DescribeDeadlock(const std::vector<StuckRank>& ranks);

}  // namespace trireme
