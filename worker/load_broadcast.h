#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/shard.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/weights.h"

namespace trireme {

struct BroadcastWeights {
  Weights weights;
  uint64_t bytes_read = 0;  // of the rank's slices, from the files or from rank 0
};

// --load broadcast: Weights::Load of this rank's slices, of which rank 0 alone reads the files. It
// sends every rank the rows of its own slices, as they are stored, in pieces and in the files'
// order, while it packs its own; another rank holds about two pieces beside its weights, and packs
// the one while it receives the next. So all have the bits that Weights::Load has. Collective:
// every rank takes part, also one that cannot load. `checkpoint` is rank 0's, or why it has none;
// on another rank null, or why that rank cannot load. `slices` are those of all ranks, the same
// everywhere. Rank 0's errors are returned on every rank.
absl::StatusOr<BroadcastWeights> LoadByBroadcast(
    const absl::StatusOr<std::unique_ptr<Checkpoint>>& checkpoint,
    const std::vector<std::vector<TensorSlice>>& slices, Ops& ops, const LoadOptions& options,
    Communicator& world, int64_t piece_bytes = int64_t{16} << 20);

}  // namespace trireme
