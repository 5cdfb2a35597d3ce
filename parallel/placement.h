#pragma once

#include <span>
#include <string>
#include <vector>

#include "parallel/layout.h"

namespace trireme {

// Where a process of a gang runs, as far as it can see.
struct RankPlace {
  std::string host;
  int numa_node = -1;                     // of its GPU or else its CPUs; -1: several, or unknown
  std::string gpu = {};                   // PCI bus id; empty: it computes on CPUs
  std::vector<std::string> nvlinks = {};  // bus ids of the GPUs that its GPU has NVLink to

  bool operator==(const RankPlace&) const = default;
};

// Which process becomes which rank: element r is the process (an index into `places`) that is to be
// rank r. `places` are layout.world_size(). Tensor parallel groups are formed of GPUs that all have
// NVLink to each other where there are enough of them, else inside a NUMA node, else inside a host,
// and of what the hosts have left over only at the end; stages follow the hosts, which stay in the
// order of `places`. Deterministic.
std::vector<int> OrderByTopology(std::span<const RankPlace> places, const ParallelLayout& layout);

// Where the stages are: "stage 0: ranks 0-1 on a; stage 1: rank 2 on a, rank 3 on b". `places` are
// in rank order.
std::string DescribePlacement(std::span<const RankPlace> places, const ParallelLayout& layout);

// What it costs that tensor parallel groups lie across hosts, and what to do; empty if none does.
// `places` are in rank order.
std::string WarnOfPlacement(std::span<const RankPlace> places, const ParallelLayout& layout);

}  // namespace trireme
