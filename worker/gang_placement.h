#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "parallel/layout.h"
#include "parallel/placement.h"
#include "worker/gang_world.h"

namespace trireme {

// Of this rank; the layout is the same on every rank.
struct PlacementOptions {
  ParallelLayout layout;
  bool topology = true;     // --placement topology; false: ranks stay what they are
  bool rank_asked = false;  // --rank: where any rank has it, all stay what they are
  RankPlace place = {};     // but for the host, which the world knows
};

// Tells all ranks where each of them is, and numbers them anew, by OrderByTopology: replaces
// world.ranks and world.hosts. local_rank stays: what it stands for, as a GPU, is this process's.
// Collective. Returns the places in the order of the new ranks. The layout must be of
// world.ranks->size() ranks.
absl::StatusOr<std::vector<RankPlace>> PlaceRanks(const PlacementOptions& options,
                                                  GangWorld& world);

}  // namespace trireme
