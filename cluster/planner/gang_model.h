#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "cluster/planner/planner.h"
#include "cluster/planner/stage.h"

namespace trireme {

// A gang in its place on the cluster: how long a step needs for its way through all stages.
// Immutable; safe to use from several threads.
class GangModel {
 public:
  // The layout was placed, and its stages sized (SizeStage).
  GangModel(const ClusterSpec& cluster, const LayoutPlan& plan, std::vector<SizedStage> stages);
  // Of a layout of a Plan, with the same arguments as MakePlan.
  static absl::StatusOr<GangModel> Create(const ModelShape& shape, const WeightTypes& types,
                                          const ClusterSpec& cluster, const PlanOptions& options,
                                          const LayoutPlan& plan);

  // `back`: sampled tokens go back from the last stage to the first.
  StepTimes Pass(std::span<const StepTokens> parts, bool back) const;
  StepTimes Pass(const StepTokens& step, bool back) const { return Pass({&step, 1}, back); }

  size_t num_stages() const { return stages_.size(); }

 private:
  LinkSpec SharedNetwork(int ranks) const;
  double HopSeconds(size_t stage, int64_t tokens) const;

  ClusterSpec cluster_;
  ParallelLayout layout_;
  std::vector<SizedStage> stages_;
  LinkSpec tp_link_;
};

}  // namespace trireme
