#include "cluster/planner/report.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace trireme {
namespace {

using nlohmann::json;

constexpr double kGB = 1e9;
constexpr double kMillisecond = 1e-3;

// "177.2 GB", "9.3 MB".
std::string Amount(double bytes) {
  constexpr double kMB = 1e6;
  return bytes < kGB ? absl::StrFormat("%.1f MB", bytes / kMB)
                     : absl::StrFormat("%.1f GB", bytes / kGB);
}

double Billions(int64_t bytes) { return static_cast<double>(bytes) / kGB; }

std::string Name(const ParallelLayout& layout) {
  if (layout.pp == 0) return absl::StrCat("tp ", layout.tp);
  return absl::StrCat("tp ", layout.tp, " pp ", layout.pp,
                      layout.stage_layers.empty() ? "" : " of ",
                      absl::StrJoin(layout.stage_layers.layers(), ","),
                      layout.stage_layers.empty() ? "" : " layers");
}

json StageJson(const StagePlan& stage) {
  return {{"layers", {stage.layers.begin, stage.layers.end}},
          {"weight_bytes", stage.weight_bytes},
          {"workspace_bytes", stage.workspace_bytes},
          {"request_kv_bytes", stage.request_bytes},
          {"kv_bytes_max", stage.kv_bytes_max}};
}

json LayoutJson(const LayoutPlan& plan) {
  json stages = json::array();
  for (const StagePlan& stage : plan.stages) stages.push_back(StageJson(stage));
  return {{"tp", plan.layout.tp},
          {"pp", plan.layout.pp},
          {"replicas", plan.replicas},
          {"idle_devices", plan.idle_devices},
          {"tp_across_nodes", plan.tp_across_nodes},
          {"requests_max", plan.requests()},
          {"max_num_seqs", plan.max_num_seqs},
          {"max_num_batched_tokens", plan.max_num_batched_tokens},
          {"ttft_ms", plan.ttft_s / kMillisecond},
          {"tpot_ms", plan.tpot_s / kMillisecond},
          {"tokens_per_s", plan.tokens_per_s},
          {"kv_memory_bytes", plan.kv_memory_bytes()},
          {"stages", stages}};
}

json DeviceJson(const DeviceSpec& device) {
  return {{"gpu", device.name},
          {"memory_bytes", device.memory_bytes},
          {"memory_bytes_per_s", device.memory_bytes_per_s},
          {"flops_16bit", device.flops_16bit},
          {"flops_8bit", device.flops_8bit}};
}

json ClusterJson(const ClusterSpec& cluster) {
  json report = {{"nodes", cluster.nodes},
                 {"gpus_per_node", cluster.devices_per_node},
                 {"link", cluster.link.name},
                 {"network", cluster.network.name},
                 {"nics_per_node", cluster.nics_per_node}};
  report.update(DeviceJson(cluster.DeviceOf(0)));
  for (const DeviceSpec& device : cluster.node_devices) {
    report["node_gpus"].push_back(DeviceJson(device));
  }
  return report;
}

// "h100 (80 GB, 3350 GB/s)", of unlike nodes each.
std::string DescribeDevices(const ClusterSpec& cluster) {
  std::vector<std::string> devices;
  for (int node = 0; node < (cluster.node_devices.empty() ? 1 : cluster.nodes); ++node) {
    const DeviceSpec& device = cluster.DeviceOf(node);
    devices.push_back(absl::StrFormat("%s (%.0f GB, %.0f GB/s)", device.name,
                                      device.memory_bytes / kGB, device.memory_bytes_per_s / kGB));
  }
  return absl::StrJoin(devices, ", ");
}

int64_t LargestWeights(const LayoutPlan& plan) {
  int64_t bytes = 0;
  for (const StagePlan& stage : plan.stages) bytes = std::max(bytes, stage.max_weight_bytes());
  return bytes;
}

int64_t LargestRequest(const LayoutPlan& plan) {
  int64_t bytes = 0;
  for (const StagePlan& stage : plan.stages) bytes = std::max(bytes, stage.request_bytes);
  return bytes;
}

std::string Header(const PlanSubject& subject, const Plan& plan) {
  const ModelShape& shape = subject.shape;
  const ClusterSpec& cluster = subject.cluster;
  const PlanOptions& options = subject.options;
  const bool widened = subject.weights.starts_with("FP8") && !cluster.DeviceOf(0).keeps_fp8;
  std::string text = absl::StrFormat(
      "%s: %s, %.2f billion parameters, %s%s: %s of weights (%s with 20 %% headroom)\n",
      subject.model, shape.config.architecture, static_cast<double>(shape.NumParameters()) / 1e9,
      subject.weights, widened ? ", held in BF16" : "",
      Amount(static_cast<double>(plan.total_weight_bytes)),
      Amount(1.2 * static_cast<double>(plan.total_weight_bytes)));
  if (!shape.computed) {
    absl::StrAppend(&text, "  sizing only: workers do not compute ", shape.config.architecture,
                    " yet\n");
  }
  absl::StrAppend(
      &text,
      absl::StrFormat("%d node%s x %d %s, %s inside, %d x %s between\n", cluster.nodes,
                      cluster.nodes == 1 ? "" : "s", cluster.devices_per_node,
                      DescribeDevices(cluster), cluster.link.name, cluster.nics_per_node,
                      cluster.network.name),
      absl::StrFormat("%d request%s at once, %d tokens of prompt and %d of answer, %s KV cache\n",
                      options.concurrency, options.concurrency == 1 ? "" : "s",
                      options.context - options.output_tokens, options.output_tokens,
                      std::string(KvDTypeName(options.kv_dtype))));
  return text;
}

std::string Table(const Plan& plan, size_t rows) {
  std::string text =
      absl::StrFormat("\n%3s %3s %6s %12s %14s %9s %10s %9s %10s\n", "tp", "pp", "copies",
                      "weights GB", "KV GB/request", "requests", "TTFT ms", "TPOT ms", "tokens/s");
  for (size_t i = 0; i < std::min(rows, plan.layouts.size()); ++i) {
    const LayoutPlan& layout = plan.layouts[i];
    absl::StrAppend(
        &text,
        absl::StrFormat(
            "%3d %3d %6d %12.3f %14.4f %9d %10.1f %9.2f %10.1f%s%s%s\n", layout.layout.tp,
            layout.layout.pp, layout.replicas, Billions(LargestWeights(layout)),
            Billions(LargestRequest(layout)), layout.requests(), layout.ttft_s / kMillisecond,
            layout.tpot_s / kMillisecond, layout.tokens_per_s,
            layout.layout.stage_layers.empty() ? "" : "  uneven stages",
            layout.tp_across_nodes ? "  tp across nodes" : "",
            layout.idle_devices > 0 ? absl::StrFormat("  %d idle", layout.idle_devices) : ""));
  }
  if (plan.layouts.size() > rows) {
    absl::StrAppend(&text, "... and ", plan.layouts.size() - rows, " more (--rows, --json)\n");
  }
  absl::StrAppend(&text,
                  "Weights and KV cache are those of the rank that has most. Times are predicted, "
                  "not measured: docs/planner.md.\n");
  return text;
}

// What another split would save, if that is worth a word.
std::string Faster(const FasterSplit& faster) {
  constexpr double kWorthwhile = 0.98;
  if (faster.layers.empty() || faster.ratio > kWorthwhile) return "";
  return absl::StrFormat(
      "With --stage-layers %s the slowest stage would read its weights in %.2f of the time.\n",
      absl::StrJoin(faster.layers.layers(), ","), faster.ratio);
}

std::string Rejections(const Plan& plan, size_t rows) {
  std::vector<std::pair<std::string, std::vector<std::string>>> by_reason;
  for (const Rejection& rejection : plan.rejections) {
    const auto same = [&](const auto& group) { return group.first == rejection.reason; };
    auto group = std::find_if(by_reason.begin(), by_reason.end(), same);
    if (group == by_reason.end()) group = by_reason.insert(group, {rejection.reason, {}});
    group->second.push_back(Name(rejection.layout));
  }
  std::string text = by_reason.empty() ? "" : "\nNot possible:\n";
  for (size_t i = 0; i < std::min(rows, by_reason.size()); ++i) {
    const auto& [reason, names] = by_reason[i];
    const size_t shown = names.size() > 4 ? 1 : names.size();
    absl::StrAppend(
        &text, "  ",
        absl::StrJoin(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
    if (shown < names.size()) {
      absl::StrAppend(&text, ", ... ", names.back(), " (", names.size(), " in all)");
    }
    absl::StrAppend(&text, ": ", reason, "\n");
  }
  if (by_reason.size() > rows) {
    absl::StrAppend(&text, "  ... and ", by_reason.size() - rows, " more reasons (--json)\n");
  }
  return text;
}

}  // namespace

json PlanJson(const PlanSubject& subject, const Plan& plan) {
  json layouts = json::array(), rejections = json::array();
  for (const LayoutPlan& layout : plan.layouts) layouts.push_back(LayoutJson(layout));
  for (const Rejection& rejection : plan.rejections) {
    json entry = {{"tp", rejection.layout.tp}, {"reason", rejection.reason}};
    if (rejection.layout.pp > 0) entry["pp"] = rejection.layout.pp;
    rejections.push_back(std::move(entry));
  }
  json report = {{"model",
                  {{"path", subject.model},
                   {"architecture", subject.shape.config.architecture},
                   {"computed", subject.shape.computed},
                   {"parameters", subject.shape.NumParameters()},
                   {"weights", subject.weights},
                   {"weight_bytes", plan.total_weight_bytes}}},
                 {"cluster", ClusterJson(subject.cluster)},
                 {"request",
                  {{"context", subject.options.context},
                   {"output_tokens", subject.options.output_tokens},
                   {"concurrency", subject.options.concurrency},
                   {"images", subject.options.images},
                   {"kv_cache_dtype", std::string(KvDTypeName(subject.options.kv_dtype))}}},
                 {"fits", !plan.layouts.empty()},
                 {"layouts", layouts},
                 {"rejections", rejections}};
  if (!plan.layouts.empty()) {
    const std::span<const uint16_t> faster = plan.faster.layers.layers();
    report["faster_split"] = {{"layers", std::vector<int>(faster.begin(), faster.end())},
                              {"slowest_stage_ratio", plan.faster.ratio}};
    report["launch"] = {{"commands", LaunchCommands(subject, plan.layouts.front())},
                        {"helm_values", HelmValues(subject, plan.layouts.front())}};
  }
  return report;
}

std::string PlanText(const PlanSubject& subject, const Plan& plan, size_t rows) {
  std::string text = Header(subject, plan);
  if (plan.layouts.empty()) {
    return absl::StrCat(text, "\nIt does not fit.\n", Rejections(plan, rows));
  }
  const LayoutPlan& best = plan.layouts.front();
  absl::StrAppend(&text, Table(plan, rows), Rejections(plan, rows),
                  "\nRecommended: ", Name(best.layout), ", ", best.replicas,
                  best.replicas == 1 ? " copy" : " copies", "\n", Faster(plan.faster), "\n",
                  LaunchCommands(subject, best), "\n", HelmValues(subject, best));
  return text;
}

}  // namespace trireme
