#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "cluster/planner/report.h"
#include "cluster/planner/stage.h"
#include "parallel/gguf_file.h"
#include "parallel/safetensors_types.h"

namespace trireme {
namespace {

// Whole MiB, so that rounding never asks for more than there is. One number is for all ranks: where
// stages have unequal layers, a share gives each what it has.
std::string KvMemory(const PlanSubject& subject, const LayoutPlan& plan) {
  if (plan.layout.stage_layers.empty()) {
    return absl::StrCat(plan.kv_memory_bytes() / (1 << 20), "MiB");
  }
  double share = 1;
  for (int pp_rank = 0; pp_rank < plan.layout.pp; ++pp_rank) {
    const StagePlan& stage = plan.stages[static_cast<size_t>(pp_rank)];
    const double left = StageDevice(subject.cluster, plan, pp_rank).memory_bytes -
                        static_cast<double>(stage.max_weight_bytes());
    share = std::min(share, static_cast<double>(stage.kv_bytes_max) / left);
  }
  return absl::StrCat(std::max(1, static_cast<int>(100 * share)), "%");
}

// Without them the coordinator would compute fewer requests at once than were planned.
std::string CoordinatorFlags(const LayoutPlan& plan) {
  return absl::StrCat("--max-num-seqs ", plan.max_num_seqs, " --max-num-batched-tokens ",
                      plan.max_num_batched_tokens);
}

std::string WorkerFlags(const PlanSubject& subject, const LayoutPlan& plan) {
  std::string flags = absl::StrCat(
      "--tp ", plan.layout.tp, " --pp ", plan.layout.pp, " --max-model-len ",
      subject.options.context, " --max-num-batched-tokens ", plan.max_num_batched_tokens,
      " --block-size ", subject.options.block_size, " --kv-memory ", KvMemory(subject, plan),
      " --kv-cache-dtype ", std::string(KvDTypeName(subject.options.kv_dtype)));
  if (const StageSplit& split = plan.layout.stage_layers; !split.empty()) {
    absl::StrAppend(&flags, " --stage-layers ", absl::StrJoin(split.layers(), ","));
  }
  if (subject.cluster.device.gpu) flags += " --device cuda";
  return flags;
}

std::string Hostfile(const PlanSubject& subject, const LayoutPlan& plan, int replica) {
  const int per_node = subject.cluster.devices_per_node;
  const int world = plan.layout.world_size();
  const int slots = std::min(world, per_node);
  const int gangs_on_node = std::max(per_node / world, 1);
  const int nodes = std::max(world / per_node, 1);
  const int first = world <= per_node ? replica / gangs_on_node : replica * nodes;
  std::string hosts;
  for (int node = first; node < first + nodes; ++node) {
    absl::StrAppend(&hosts, hosts.empty() ? "" : ",", "node", node + 1, ":", slots);
  }
  return hosts;
}

// As scripts/keep_mpirun.sh: what is left of a gang that has lost a rank has nothing to finish, and
// a host's daemon that is silent has gone.
std::string EndsSoon(const PlanSubject& subject, const LayoutPlan& plan) {
  std::string flags = " --mca odls_base_sigkill_timeout 0";
  if (plan.layout.world_size() > subject.cluster.devices_per_node) {
    flags +=
        " \\\n    --mca oob_tcp_keepalive_time 5 --mca oob_tcp_keepalive_intvl 1 --mca "
        "oob_tcp_keepalive_probes 3";
  }
  return flags;
}

constexpr const char* kNoCheckpoint = "/models/NAME";

// What --model takes, which is not config.json alone: its directory if that has weights.
std::string CheckpointPath(const std::string& model) {
  std::error_code error;
  const std::filesystem::path path = model;
  if (IsGgufPath(path) || !std::filesystem::is_regular_file(path, error)) return model;
  const std::filesystem::path dir = path.has_parent_path() ? path.parent_path() : ".";
  return path.filename() == "config.json" && HasSafetensorsFiles(dir) ? dir.string()
                                                                      : kNoCheckpoint;
}

// What is to be put in its place, or nothing.
std::string CheckpointComment(const std::string& path) {
  if (path != kNoCheckpoint) return "";
  return absl::StrCat("# ", path,
                      ": put the directory of config.json and weights, on every host\n");
}

// For the shell: single-quoted if it is more than a plain path.
std::string Quoted(const std::string& text) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+=";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

// Why no worker starts this, or nothing.
std::string WhyNot(const PlanSubject& subject) {
  const bool device = subject.cluster.device.sizing_only;
  if (subject.shape.computed && !device) return "";
  return absl::StrCat(
      "# sizing only: workers do not compute ",
      device ? "on " + subject.cluster.device.name : subject.shape.config.architecture, " yet\n");
}

}  // namespace

std::string LaunchCommands(const PlanSubject& subject, const LayoutPlan& plan) {
  if (const std::string why_not = WhyNot(subject); !why_not.empty()) return why_not;
  std::string text;
  if (subject.cluster.device.gpu) {
    text += "# --device cuda needs workers that are built for GPUs\n";
  }
  if (plan.replicas > 1) {
    absl::StrAppend(
        &text, "# copy 1 of ", plan.replicas,
        "; the others are started like it on their own hosts, with the same coordinator\n");
  }
  const std::string model = CheckpointPath(subject.model);
  absl::StrAppend(&text, CheckpointComment(model), "trireme-coordinator --model ", Quoted(model),
                  " --grpc node1:8001 --insecure ", CoordinatorFlags(plan), "\n",
                  "# scripts/keep_mpirun.sh in mpirun's place starts it anew whenever it ends\n",
                  "mpirun -np ", plan.layout.world_size(), " --host ", Hostfile(subject, plan, 0),
                  " --bind-to none", EndsSoon(subject, plan),
                  " \\\n    trireme-worker --coordinator node1:8001 --model ", Quoted(model),
                  " \\\n    ", WorkerFlags(subject, plan), "\n");
  return text;
}

std::string HelmValues(const PlanSubject& subject, const LayoutPlan& plan) {
  if (!WhyNot(subject).empty()) return "";
  const int world = plan.layout.world_size();
  const int per_node = subject.cluster.devices_per_node;
  const std::string model = CheckpointPath(subject.model);
  std::string text = "# there is no Helm chart yet: these are the values that one will need\n";
  absl::StrAppend(
      &text, CheckpointComment(model), "model: ",
      nlohmann::json(model).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
      "\nreplicas: ", plan.replicas, "\ngang:\n", "  pods: ", std::max(world / per_node, 1),
      "\n  ranksPerPod: ", std::min(world, per_node), "\n");
  if (subject.cluster.device.gpu) {
    absl::StrAppend(&text, "  resources:\n    limits:\n      ",
                    subject.cluster.device.name == "mi300x" ? "amd.com/gpu: " : "nvidia.com/gpu: ",
                    std::min(world, per_node), "\n");
  }
  absl::StrAppend(&text, "  args: \"", WorkerFlags(subject, plan), "\"\ncoordinatorArgs: \"",
                  CoordinatorFlags(plan), "\"\n");
  return text;
}

}  // namespace trireme
