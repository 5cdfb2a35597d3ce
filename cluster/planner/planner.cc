#include "cluster/planner/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "cluster/planner/gang_model.h"
#include "cluster/planner/stage.h"
#include "parallel/layer_costs.h"
#include "parallel/stage_split.h"

namespace trireme {
namespace {

constexpr int64_t kMaxNumSeqsDefault = 64;  // as the coordinator's

std::string GB(double bytes) {
  return bytes < 1e8 ? absl::StrFormat("%.1f MB", bytes / 1e6)
                     : absl::StrFormat("%.1f GB", bytes / 1e9);
}
std::string GB(int64_t bytes) { return GB(static_cast<double>(bytes)); }

// Of the requests, those of the copy that has most.
int64_t BatchOf(const LayoutPlan& plan, const PlanOptions& options) {
  const int64_t active = std::min<int64_t>(plan.replicas, options.concurrency);
  return (options.concurrency + active - 1) / active;
}

// Where copies of the model go: gangs that share a host, or gangs of whole hosts.
absl::StatusOr<LayoutPlan> Place(const ClusterSpec& cluster, const PlanOptions& options,
                                 const ParallelLayout& layout) {
  LayoutPlan plan;
  plan.layout = layout;
  const int per_node = cluster.devices_per_node;
  const int world = layout.world_size();
  if (world <= per_node) {
    plan.replicas = per_node / world * cluster.nodes;
  } else if (world % per_node != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "its ranks are more than a node's ", per_node,
        " devices, but no multiple of them: a gang over several nodes must fill them"));
  } else {
    plan.replicas = cluster.nodes / (world / per_node);
    plan.tp_across_nodes = per_node % layout.tp != 0;
  }
  plan.idle_devices = cluster.devices() - plan.replicas * world;
  plan.max_num_seqs = std::max(BatchOf(plan, options),
                               std::min(kMaxNumSeqsDefault, options.max_num_batched_tokens));
  // The coordinator wants a token for every sequence.
  plan.max_num_batched_tokens = std::max(options.max_num_batched_tokens, plan.max_num_seqs);
  return plan;
}

// With the steps of a placed layout.
PlanOptions OptionsOf(const LayoutPlan& plan, PlanOptions options) {
  options.max_num_batched_tokens = plan.max_num_batched_tokens;
  return options;
}

// Predicts with a gang of the layout.
class Predictor {
 public:
  Predictor(const PlanOptions& options, const GangModel& gang) : options_(options), gang_(gang) {}

  void Fill(LayoutPlan& plan) const {
    const int64_t batch = BatchOf(plan, options_);
    const StepTimes prefill = Prefill();
    plan.ttft_s = prefill.latency_s;
    plan.tpot_s = DecodeSeconds(batch);
    // Each gang in turns: prompts of a batch, as fast as its slowest stage, then their answers.
    const double tokens = static_cast<double>(batch * options_.output_tokens);
    const double seconds = static_cast<double>(batch - 1) * prefill.busy_s + prefill.latency_s +
                           static_cast<double>(options_.output_tokens - 1) * plan.tpot_s;
    plan.tokens_per_s =
        static_cast<double>(options_.concurrency) / static_cast<double>(batch) * tokens / seconds;
  }

 private:
  // The prompt in chunks, each through all stages, one behind the other.
  StepTimes Prefill() const {
    StepTimes all;
    const int64_t prompt = options_.context - options_.output_tokens;
    for (int64_t begin = 0; begin < prompt;) {
      const int64_t tokens = std::min(options_.max_num_batched_tokens, prompt - begin);
      begin += tokens;
      const bool last = begin == prompt;
      const StepTimes chunk = gang_.Pass(
          {.sequences = 1, .tokens = tokens, .context = begin, .sampled = last ? 1 : 0}, false);
      all.busy_s += chunk.busy_s;
      all.latency_s += last ? chunk.latency_s : chunk.busy_s;
    }
    return all;
  }

  // The batch in as many parts as there are stages, so that each stage has one to compute.
  double DecodeSeconds(int64_t batch) const {
    const int64_t parts = std::min<int64_t>(batch, static_cast<int64_t>(gang_.num_stages()));
    const int64_t size = (batch + parts - 1) / parts;
    const int64_t context = options_.context - options_.output_tokens / 2;
    const StepTimes step =
        gang_.Pass({.sequences = size, .tokens = 1, .context = context, .sampled = size}, true);
    return std::max(step.latency_s, static_cast<double>(parts) * step.busy_s);
  }

  const PlanOptions& options_;
  const GangModel& gang_;
};

// Why a stage's ranks have no room, or nothing.
std::optional<std::string> WhyNoRoom(const SizedStage& sized, int pp_rank,
                                     const PlanOptions& options) {
  const StagePlan& stage = sized.plan;
  const DeviceSpec& device = sized.device;
  const std::string usable =
      absl::StrCat("of ", device.name, "'s ", GB(device.memory_bytes), " are usable");
  const std::string rank = absl::StrCat("a rank of stage ", pp_rank);
  const double limit = UsableBytes(device, options);
  if (stage.kv_bytes_max < 0) {
    return absl::StrCat(rank, " needs ", GB(stage.max_weight_bytes()), " for weights and ",
                        GB(stage.workspace_bytes), " for activations, but ", GB(limit), " ",
                        usable);
  }
  if (stage.request_bytes > stage.kv_bytes_max) {
    return absl::StrCat("one request of ", options.context, " tokens needs ",
                        GB(stage.request_bytes), " of KV cache on ", rank, ", but beside ",
                        GB(stage.max_weight_bytes()), " of weights ", GB(stage.kv_bytes_max),
                        " remain");
  }
  return std::nullopt;
}

// The sizes of a placed layout, and its predictions if it fits. INVALID_ARGUMENT says why not.
absl::Status Complete(const ModelShape& shape, const WeightTypes& types, const ClusterSpec& cluster,
                      const PlanOptions& options, LayoutPlan& plan) {
  std::vector<SizedStage> stages;
  plan.requests_per_gang = std::numeric_limits<int64_t>::max();
  for (int pp_rank = 0; pp_rank < plan.layout.pp; ++pp_rank) {
    ASSIGN_OR_RETURN(SizedStage stage, SizeStage(shape, types, StageDevice(cluster, plan, pp_rank),
                                                 options, plan.layout, pp_rank));
    if (const auto why = WhyNoRoom(stage, pp_rank, options); why.has_value()) {
      return absl::InvalidArgumentError(*why);
    }
    if (stage.plan.request_bytes > 0) {
      plan.requests_per_gang =
          std::min(plan.requests_per_gang, stage.plan.kv_bytes_max / stage.plan.request_bytes);
    }
    plan.stages.push_back(stage.plan);
    stages.push_back(std::move(stage));
  }
  if (plan.requests() < options.concurrency) {
    return absl::InvalidArgumentError(
        absl::StrCat("its ", plan.replicas, plan.replicas == 1 ? " copy holds " : " copies hold ",
                     plan.requests(), " requests of ", options.context, " tokens at once, not ",
                     options.concurrency));
  }
  Predictor(options, GangModel(cluster, plan, std::move(stages))).Fill(plan);
  return absl::OkStatus();
}

// What workers would choose their stages by, if they knew the requests.
absl::StatusOr<SplitDemand> DemandOf(const ModelShape& shape, const WeightTypes& types,
                                     const ClusterSpec& cluster, const PlanOptions& options,
                                     const LayoutPlan& placed) {
  const ParallelLayout& layout = placed.layout;
  SplitDemand demand;
  // A layer has one size, wherever it is: the largest.
  DeviceSpec least = cluster.DeviceOf(0);
  for (const DeviceSpec& device : cluster.node_devices) least = LesserOf(least, device);
  ASSIGN_OR_RETURN(demand.costs, MeasureLayers(shape, types, layout.tp, HoldingOf(least)));
  ModelShard shard = ComputeShard(shape.config, {.tp = layout.tp, .pp = 1}, {});
  for (int64_t layer = 0; layer < shape.config.num_layers; ++layer) {
    shard.layers = {.begin = layer, .end = layer + 1};
    demand.costs.kv_bytes.push_back(static_cast<double>(RequestBytes(shape, shard, options)));
  }
  for (int pp_rank = 0; pp_rank < layout.pp; ++pp_rank) {
    const DeviceSpec device = StageDevice(cluster, placed, pp_rank);
    shard.last_stage = pp_rank + 1 == layout.pp;
    demand.stages.push_back(
        {.memory_bytes = UsableBytes(device, options) -
                         static_cast<double>(WorkspaceBytes(shape, shard, options)),
         .kv_share = 1,
         .speed = device.memory_bytes_per_s * device.memory_efficiency});
  }
  demand.units_min = demand.units_enough =
      std::ceil(static_cast<double>(options.concurrency) / static_cast<double>(placed.replicas));
  return demand;
}

// The placed layout complete, split as workers would. `status` says why it does not fit evenly if
// it fits in no way.
LayoutPlan SplitToFit(const ModelShape& shape, const WeightTypes& types, const ClusterSpec& cluster,
                      const PlanOptions& options, const LayoutPlan& placed, absl::Status& status) {
  LayoutPlan even = placed;
  status = Complete(shape, types, cluster, options, even);
  if (placed.layout.pp == 1 || (status.ok() && cluster.node_devices.empty())) return even;
  const absl::StatusOr<SplitDemand> demand = DemandOf(shape, types, cluster, options, placed);
  if (!demand.ok()) return even;
  LayoutPlan chosen = placed;
  chosen.layout.stage_layers = ChooseSplit(*demand).split;
  if (chosen.layout.stage_layers.empty()) return even;
  if (!Complete(shape, types, cluster, options, chosen).ok()) return even;
  status = absl::OkStatus();
  return chosen;
}

// By the head, which a step reads and the embedding it does not, even stages of equal devices are
// not equally fast.
absl::StatusOr<FasterSplit> FindFaster(const ModelShape& shape, const WeightTypes& types,
                                       const ClusterSpec& cluster, const PlanOptions& options,
                                       const LayoutPlan& plan) {
  FasterSplit faster;
  if (plan.layout.pp == 1 || plan.layout.pp > StageSplit::kStagesMax) return faster;
  ASSIGN_OR_RETURN(const SplitDemand demand, DemandOf(shape, types, cluster, options, plan));
  std::vector<int64_t> layers;
  for (const StagePlan& stage : plan.stages) layers.push_back(stage.layers.size());
  const std::optional<SplitValue> now = ValueOf(demand, layers);
  const std::optional<StageSplit> best = BestSplit(demand);
  if (!now.has_value() || !best.has_value()) return faster;
  const std::vector<int64_t> better(best->layers().begin(), best->layers().end());
  faster.ratio = ValueOf(demand, better)->slowest / now->slowest;
  if (faster.ratio < 1) faster.layers = *best;
  return faster;
}

absl::Status CheckOptions(const ModelShape& shape, const ClusterSpec& cluster,
                          const PlanOptions& options) {
  if (cluster.nodes < 1 || cluster.devices_per_node < 1 || cluster.nics_per_node < 1) {
    return absl::InvalidArgumentError(
        "--nodes, --gpus-per-node and --nics-per-node must be at least 1");
  }
  if (!cluster.node_devices.empty() &&
      cluster.node_devices.size() != static_cast<size_t>(cluster.nodes)) {
    return absl::InvalidArgumentError(absl::StrCat("--gpu: there are devices of ",
                                                   cluster.node_devices.size(), " nodes, but ",
                                                   cluster.nodes, " nodes"));
  }
  if (options.context > shape.config.max_position_embeddings) {
    return absl::InvalidArgumentError(
        absl::StrCat("--context ", options.context, " is above the model's ",
                     shape.config.max_position_embeddings, " positions"));
  }
  if (options.output_tokens < 1 || options.output_tokens >= options.context) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--output-len ", options.output_tokens, " must be at least 1 and below --context ",
        options.context, ", which counts the answer as well"));
  }
  if (options.images > 0 && shape.image_tokens == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--images: ", shape.config.architecture, " takes none"));
  }
  return absl::OkStatus();
}

// Tensor parallelism across nodes comes last: its many small messages suffer from everything else
// on the network, which the model does not see.
bool Better(const LayoutPlan& a, const LayoutPlan& b) {
  if (a.tp_across_nodes != b.tp_across_nodes) return b.tp_across_nodes;
  if (a.tokens_per_s != b.tokens_per_s) return a.tokens_per_s > b.tokens_per_s;
  return a.tpot_s < b.tpot_s;
}

}  // namespace

int64_t StagePlan::max_weight_bytes() const {
  return *std::max_element(weight_bytes.begin(), weight_bytes.end());
}

int64_t LayoutPlan::kv_blocks() const {
  int64_t blocks = std::numeric_limits<int64_t>::max();
  for (const StagePlan& stage : stages) {
    if (stage.block_bytes > 0) blocks = std::min(blocks, stage.kv_bytes_max / stage.block_bytes);
  }
  return blocks;
}

int64_t LayoutPlan::kv_memory_bytes() const {
  int64_t bytes = std::numeric_limits<int64_t>::max();
  for (const StagePlan& stage : stages) bytes = std::min(bytes, stage.kv_bytes_max);
  return bytes;
}

absl::StatusOr<Plan> MakePlan(const ModelShape& shape, const WeightTypes& types,
                              const ClusterSpec& cluster, const PlanOptions& options) {
  RETURN_IF_ERROR(CheckOptions(shape, cluster, options));
  Plan result;
  // Errors of one rank with everything are errors of the files, not of a layout.
  ASSIGN_OR_RETURN(const SizedStage whole,
                   SizeStage(shape, types, cluster.DeviceOf(0), options, {}, 0));
  result.total_weight_bytes = whole.plan.max_weight_bytes();
  const auto reject = [&result](const ParallelLayout& layout, std::string reason) {
    result.rejections.push_back({.layout = layout, .reason = std::move(reason)});
  };
  // Sizes that are too large get one rejection, however many the cluster has devices for.
  for (int tp = 1; tp <= std::min(cluster.devices(), kReductionGroupsMax + 1); ++tp) {
    const ParallelLayout whatever_pp = {.tp = tp, .pp = 0};
    if (tp > kReductionGroupsMax) {
      reject(whatever_pp,
             absl::StrCat("neither it nor more: it must be at most ", kReductionGroupsMax));
      break;
    }
    if (const auto why = WhyNotTp(shape.config, tp); why.has_value()) {
      reject(whatever_pp, *why);
      continue;
    }
    for (int pp = 1; pp <= cluster.devices() / tp; ++pp) {
      const ParallelLayout layout = {.tp = tp, .pp = pp};
      if (pp > shape.config.num_layers) {
        reject(layout,
               absl::StrCat("neither it nor more: there are ", shape.config.num_layers, " layers"));
        break;
      }
      absl::StatusOr<LayoutPlan> plan = Place(cluster, options, layout);
      absl::Status status = plan.status();
      if (status.ok()) {
        plan = SplitToFit(shape, types, cluster, OptionsOf(*plan, options), *plan, status);
      }
      if (status.ok()) {
        result.layouts.push_back(*std::move(plan));
      } else {
        reject(layout, std::string(status.message()));
      }
    }
  }
  std::stable_sort(result.layouts.begin(), result.layouts.end(), Better);
  if (!result.layouts.empty()) {
    const LayoutPlan& best = result.layouts.front();
    ASSIGN_OR_RETURN(result.faster,
                     FindFaster(shape, types, cluster, OptionsOf(best, options), best));
  }
  return result;
}

}  // namespace trireme
