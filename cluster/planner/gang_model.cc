#include "cluster/planner/gang_model.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"

namespace trireme {
namespace {

constexpr double kActivationBytes = 4;

}  // namespace

GangModel::GangModel(const ClusterSpec& cluster, const LayoutPlan& plan,
                     std::vector<SizedStage> stages)
    : cluster_(cluster), layout_(plan.layout), stages_(std::move(stages)) {
  tp_link_ = plan.tp_across_nodes ? SharedNetwork(cluster.devices_per_node) : cluster.link;
}

absl::StatusOr<GangModel> GangModel::Create(const ModelShape& shape, const WeightTypes& types,
                                            const ClusterSpec& cluster, const PlanOptions& options,
                                            const LayoutPlan& plan) {
  std::vector<SizedStage> stages;
  for (int pp_rank = 0; pp_rank < plan.layout.pp; ++pp_rank) {
    ASSIGN_OR_RETURN(SizedStage stage, SizeStage(shape, types, StageDevice(cluster, plan, pp_rank),
                                                 options, plan.layout, pp_rank));
    stages.push_back(std::move(stage));
  }
  return GangModel(cluster, plan, std::move(stages));
}

// The network as one of `ranks` that send from a host at once sees it.
LinkSpec GangModel::SharedNetwork(int ranks) const {
  LinkSpec link = cluster_.network;
  link.bytes_per_s *= std::min(1.0, static_cast<double>(cluster_.nics_per_node) / ranks);
  return link;
}

// Of the activations from a stage to the next; from the last one tokens go back to the first.
double GangModel::HopSeconds(size_t stage, int64_t tokens) const {
  const int per_node = cluster_.devices_per_node;
  const int tp = layout_.tp;
  bool crosses = false;
  const auto from = static_cast<int>(stage);
  const int to = stage + 1 < stages_.size() ? from + 1 : 0;
  for (int tp_rank = 0; tp_rank < tp; ++tp_rank) {
    crosses |= (from * tp + tp_rank) / per_node != (to * tp + tp_rank) / per_node;
  }
  const int64_t elements = to == 0 ? tokens : tokens * stages_.front().work.hidden_size;
  const double bytes = kActivationBytes * static_cast<double>(elements);
  const bool in_one_node = layout_.world_size() <= per_node;
  if (!in_one_node && crosses) return SendSeconds(SharedNetwork(std::min(tp, per_node)), bytes);
  return SendSeconds(cluster_.link, bytes);
}

StepTimes GangModel::Pass(std::span<const StepTokens> parts, bool back) const {
  int64_t tokens = 0;
  for (const StepTokens& part : parts) tokens += part.sequences * part.tokens;
  StepTimes times;
  for (size_t s = 0; s < stages_.size(); ++s) {
    double seconds = StageSeconds(stages_[s].work, parts, stages_[s].device, tp_link_);
    const bool last = s + 1 == stages_.size();
    if (stages_.size() > 1 && (!last || back)) seconds += HopSeconds(s, tokens);
    times.latency_s += seconds;
    times.busy_s = std::max(times.busy_s, seconds);
  }
  return times;
}

}  // namespace trireme
