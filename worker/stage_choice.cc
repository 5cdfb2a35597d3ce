#include "worker/stage_choice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/layer_costs.h"
#include "parallel/stage_split.h"
#include "worker/kv_cache.h"
#include "worker/memory_bandwidth.h"

namespace trireme {
namespace {

// Of all threads together, far more than their caches; and of each, so that it takes a while.
constexpr size_t kBandwidthBytes = size_t{512} << 20;
constexpr size_t kBandwidthBytesPerThread = size_t{32} << 20;
constexpr double kSpeedSteps = 10;  // speeds are told in tenths of the fastest's

// What a rank tells of itself, as bytes.
struct Report {
  std::array<char, 128> kind{};  // ranks of one kind are equally fast
  double memory_bytes = 0;
  double kv_bytes = 0;
  double kv_share = 0;
  double speed = 1;
  bool packs_bf16 = false;
  bool keeps_fp8 = false;
};

template <typename T>
absl::StatusOr<std::vector<T>> Gather(const T& mine, Communicator& world) {
  std::vector<T> all(static_cast<size_t>(world.size()));
  RETURN_IF_ERROR(
      world.AllGather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all))));
  return all;
}

// "Intel(R) Xeon(R) ..."; empty where the system does not say it.
std::string CpuModel() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.find(':'), line.size()));
  }
  return "";
}

Report MakeReport(const RunnerOptions& options, Ops& ops) {
  Report report;
  std::string kind = absl::StrCat(std::string(ops.model()), ", ", ops.threads(), " threads");
  if (ops.memory().on_host()) absl::StrAppend(&kind, CpuModel());
  kind.copy(report.kind.data(), report.kind.size() - 1);
  // Where memory is not known, it is no reason for anything.
  const double available =
      static_cast<double>(ops.memory().Available().value_or(int64_t{1} << 50)) /
      options.ranks_sharing_memory;
  report.memory_bytes = available - static_cast<double>(options.swap_bytes_max);
  report.kv_bytes = static_cast<double>(options.kv_memory.bytes);
  report.kv_share = options.kv_memory.fraction;
  report.packs_bf16 = ops.Packs(DType::kBF16);
  report.keeps_fp8 = ops.MultipliesFp8();
  return report;
}

// As tenths of the fastest, so that the noise of measurements hardly counts; ranks of a kind are as
// fast as the fastest of them. `reports` are by rank, with what each has measured.
void RoundSpeeds(std::vector<Report>& reports) {
  double most = 0;
  for (const Report& report : reports) most = std::max(most, report.speed);
  std::vector<double> speeds;
  for (const Report& report : reports) {
    double speed = 0;
    for (const Report& other : reports) {
      if (other.kind == report.kind) speed = std::max(speed, other.speed);
    }
    speeds.push_back(std::max(1.0, std::round(kSpeedSteps * speed / most)) / kSpeedSteps);
  }
  for (size_t rank = 0; rank < reports.size(); ++rank) reports[rank].speed = speeds[rank];
}

// Of the stage's ranks, the least of each.
StageRoom RoomOf(std::span<const Report> ranks) {
  StageRoom room = {.memory_bytes = ranks[0].memory_bytes,
                    .kv_bytes = ranks[0].kv_bytes,
                    .kv_share = ranks[0].kv_share,
                    .speed = ranks[0].speed};
  for (const Report& rank : ranks) {
    room.memory_bytes = std::min(room.memory_bytes, rank.memory_bytes);
    room.kv_bytes = std::min(room.kv_bytes, rank.kv_bytes);
    room.kv_share = std::min(room.kv_share, rank.kv_share);
    room.speed = std::min(room.speed, rank.speed);
  }
  return room;
}

// A layer has one size, wherever it is: the largest.
WeightHolding HoldingOf(const RunnerOptions& options, std::span<const Report> reports) {
  WeightHolding holding = {.packs_bf16 = false, .keeps_fp8 = true, .float32 = options.float32};
  for (const Report& report : reports) {
    holding.packs_bf16 |= report.packs_bf16;
    holding.keeps_fp8 &= report.keeps_fp8;
  }
  return holding;
}

absl::StatusOr<ChosenSplit> Choose(const RunnerOptions& options, std::vector<Report> reports) {
  const ParallelLayout& layout = options.layout;
  ASSIGN_OR_RETURN(const ModelShape shape, ModelShape::Load(options.model_dir));
  RETURN_IF_ERROR(CheckLayout(shape.config, layout));
  ASSIGN_OR_RETURN(const WeightTypes types, WeightTypes::Load(options.model_dir, shape));
  SplitDemand demand;
  ASSIGN_OR_RETURN(demand.costs,
                   MeasureLayers(shape, types, layout.tp, HoldingOf(options, reports)));
  ModelShard layer = ComputeShard(shape.config, {.tp = layout.tp, .pp = 1}, {});
  layer.layers = {.begin = 0, .end = 1};
  demand.costs.kv_bytes.assign(demand.costs.bytes.size(),
                               static_cast<double>(KvCache::BlockBytes(
                                   shape.config, layer, options.kv_block_size, options.kv_dtype)));
  demand.units_min = std::max(1.0, std::ceil(static_cast<double>(options.max_model_len) /
                                             static_cast<double>(options.kv_block_size)));
  if (options.kv_memory.as_needed) {
    // Of the largest stage of an even split: room beyond that is of no use to any.
    const int64_t layers = (shape.config.num_layers + layout.pp - 1) / layout.pp;
    const int64_t context =
        options.max_model_len > 0 ? options.max_model_len : shape.config.max_position_embeddings;
    demand.units_enough = static_cast<double>(NeededKvBlocks(
        options, context, layers * static_cast<int64_t>(demand.costs.kv_bytes.front())));
  }
  RoundSpeeds(reports);
  const auto tp = static_cast<size_t>(layout.tp);
  for (size_t first = 0; first < reports.size(); first += tp) {
    demand.stages.push_back(RoomOf(std::span(reports).subspan(first, tp)));
  }
  return ChooseSplit(demand);
}

}  // namespace

absl::StatusOr<StageSplit> ChooseStages(const RunnerOptions& options, Ops& ops,
                                        Communicator& world) {
  Report mine = MakeReport(options, ops);
  ASSIGN_OR_RETURN(std::vector<Report> reports, Gather(mine, world));
  const bool alike = std::all_of(reports.begin(), reports.end(), [&](const Report& report) {
    return report.kind == reports.front().kind;
  });
  if (!alike) {
    const size_t per_thread =
        std::max(kBandwidthBytes / static_cast<size_t>(ops.threads()), kBandwidthBytesPerThread);
    ASSIGN_OR_RETURN(const MemoryBandwidth bandwidth,
                     MeasureMemoryBandwidth({.bytes_per_thread = per_thread}, ops, world));
    mine.speed = bandwidth.own;
    ASSIGN_OR_RETURN(reports, Gather(mine, world));
  }
  // Zeros after the last stage, or everywhere: even ones.
  std::array<uint16_t, StageSplit::kStagesMax> layers{};
  if (world.rank() == 0) {
    if (const absl::StatusOr<ChosenSplit> chosen = Choose(options, std::move(reports));
        chosen.ok()) {
      LogInfo(chosen->reason);
      std::copy(chosen->split.layers().begin(), chosen->split.layers().end(), layers.begin());
    }
  }
  RETURN_IF_ERROR(world.Broadcast(std::as_writable_bytes(std::span(layers)), 0));
  if (layers.front() == 0) return StageSplit();
  const std::vector<int64_t> all(layers.begin(), layers.begin() + options.layout.pp);
  return StageSplit(all);
}

}  // namespace trireme
