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
  DeviceSpec device;
};

// What the ranks of a placed layout's stage have; where its copies, or its ranks, are on unlike
// hosts, the least of all.
DeviceSpec StageDevice(const ClusterSpec& cluster, const LayoutPlan& plan, int pp_rank);

// As workers do on such a device.
WeightHolding HoldingOf(const DeviceSpec& device);

// Of a device's memory, what weights, activations and KV cache may take.
double UsableBytes(const DeviceSpec& device, const PlanOptions& options);

// KV cache of one request of the whole context, in the layers of a shard.
int64_t RequestBytes(const ModelShape& shape, const ModelShard& shard, const PlanOptions& options);

// Activations of a step, an upper bound.
int64_t WorkspaceBytes(const ModelShape& shape, const ModelShard& shard,
                       const PlanOptions& options);

// The layout is legal (CheckLayout). INVALID_ARGUMENT says why a rank cannot hold its slices: a
// quantised matrix would be cut inside a block; other errors are of the model's files.
absl::StatusOr<SizedStage> SizeStage(const ModelShape& shape, const WeightTypes& types,
                                     const DeviceSpec& device, const PlanOptions& options,
                                     const ParallelLayout& layout, int pp_rank);

}  // namespace trireme
