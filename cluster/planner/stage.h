#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "cluster/planner/cost_model.h"
#include "cluster/planner/planner.h"

namespace trireme {

// One stage of a layout: what its ranks hold, and what the busiest of them does in a step.
struct SizedStage {
  StagePlan plan;
  StageWork work;
};

// Bytes of a shard's weights. INVALID_ARGUMENT as below.
absl::StatusOr<int64_t> ShardBytes(const ModelShape& shape, const WeightTypes& types,
                                   const ModelShard& shard);

// The layout is legal (CheckLayout). INVALID_ARGUMENT says why a rank cannot hold its slices: a
// quantised matrix would be cut inside a block; other errors are of the model's files.
absl::StatusOr<SizedStage> SizeStage(const ModelShape& shape, const WeightTypes& types,
                                     const DeviceSpec& device, const PlanOptions& options,
                                     const ParallelLayout& layout, int pp_rank);

}  // namespace trireme
