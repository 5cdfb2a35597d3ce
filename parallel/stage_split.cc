#include "parallel/stage_split.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/check.h"

namespace trireme {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kAlike = 0.9;  // of the most KV cache: what is free is never quite the same

constexpr double kRounding = 1 + 1e-12;  // what is equal but for the order of operations

// sums[i] is the sum of the values before i.
std::vector<double> SumsBefore(const std::vector<double>& values) {
  std::vector<double> sums(values.size() + 1);
  std::partial_sum(values.begin(), values.end(), sums.begin() + 1);
  return sums;
}

// Stages with any run of layers.
class Stages {
 public:
  explicit Stages(const SplitDemand& demand)
      : demand_(demand),
        bytes_(SumsBefore(demand.costs.bytes)),
        read_(SumsBefore(demand.costs.read)),
        kv_bytes_(SumsBefore(demand.costs.kv_bytes)) {}

  size_t count() const { return demand_.stages.size(); }
  size_t layers() const { return bytes_.size() - 1; }

  double Seconds(size_t stage, size_t begin, size_t end) const {
    const double head = stage + 1 == count() ? demand_.costs.last_bytes : 0;
    return (read_[end] - read_[begin] + head) / demand_.stages[stage].speed;
  }
  // Of KV cache; negative if the layers do not fit.
  double Units(size_t stage, size_t begin, size_t end) const {
    const StageRoom& room = demand_.stages[stage];
    double left = room.memory_bytes - (bytes_[end] - bytes_[begin]);
    if (stage == 0) left -= demand_.costs.first_bytes;
    if (stage + 1 == count()) left -= demand_.costs.last_bytes;
    const double cache = room.kv_share > 0 ? room.kv_share * left : room.kv_bytes;
    const double unit = kv_bytes_[end] - kv_bytes_[begin];
    if (left < 0 || cache > left || cache < demand_.units_min * unit) return -1;
    return unit > 0 ? std::min(cache / unit, demand_.units_enough) : demand_.units_enough;
  }

 private:
  const SplitDemand& demand_;
  const std::vector<double> bytes_, read_, kv_bytes_;
};

// The split whose stages' costs, joined one after the other, are least, and what they are; by
// dynamic programming over the first stages and layers. Of equals, earlier stages have more.
// cost(stage, begin, end) is infinite where it cannot be.
struct Cheapest {
  double cost = kInfinity;
  std::vector<int64_t> layers;
};
template <typename Cost, typename Join>
Cheapest FindCheapest(const Stages& stages, Cost cost, Join join) {
  const size_t layers = stages.layers();
  // Of the stages from `stage` on, if they have the layers from `begin` on.
  std::vector<double> rest(layers + 1, kInfinity);
  rest[layers] = 0;
  std::vector<std::vector<size_t>> ends(stages.count(), std::vector<size_t>(layers + 1));
  for (size_t stage = stages.count(); stage-- > 0;) {
    std::vector<double> with(layers + 1, kInfinity);
    for (size_t begin = 0; begin < layers; ++begin) {
      for (size_t end = layers; end > begin; --end) {
        if (rest[end] == kInfinity) continue;
        const double total = join(cost(stage, begin, end), rest[end]);
        if (total >= with[begin]) continue;
        with[begin] = total;
        ends[stage][begin] = end;
      }
    }
    rest = std::move(with);
  }
  Cheapest found = {.cost = rest[0], .layers = {}};
  if (found.cost == kInfinity) return found;
  for (size_t stage = 0, begin = 0; stage < stages.count(); begin = ends[stage++][begin]) {
    found.layers.push_back(static_cast<int64_t>(ends[stage][begin] - begin));
  }
  return found;
}

double Larger(double a, double b) { return std::max(a, b); }

Cheapest FindBest(const SplitDemand& demand) {
  const Stages stages(demand);
  const auto seconds = [&](size_t stage, size_t begin, size_t end) {
    return stages.Units(stage, begin, end) < 0 ? kInfinity : stages.Seconds(stage, begin, end);
  };
  // Of the least of the stages' units, the most.
  const auto lack = [&](size_t stage, size_t begin, size_t end) {
    const double units = stages.Units(stage, begin, end);
    return units < 0 ? kInfinity : 1 / units;
  };
  const double fastest = FindCheapest(stages, seconds, Larger).cost;
  const double most = FindCheapest(stages, lack, Larger).cost;
  if (fastest == kInfinity) return {};
  const auto loss = [&](size_t stage, size_t begin, size_t end) {
    const double slower = seconds(stage, begin, end) / fastest;
    return most > 0 ? std::max(slower, lack(stage, begin, end) / most) : slower;
  };
  const double least = FindCheapest(stages, loss, Larger).cost;
  return FindCheapest(
      stages,
      [&](size_t stage, size_t begin, size_t end) {
        return loss(stage, begin, end) <= least * kRounding ? seconds(stage, begin, end)
                                                            : kInfinity;
      },
      [](double a, double b) { return a + b; });
}

// What there is for the KV cache before there are weights.
double KvRoom(const StageRoom& stage) {
  return stage.kv_share > 0 ? stage.kv_share * stage.memory_bytes : stage.kv_bytes;
}

// The values of all stages and whether they differ by more than `tolerance`.
template <typename Value>
bool Differ(const std::vector<StageRoom>& stages, double tolerance, Value value) {
  double least = kInfinity, most = 0;
  for (const StageRoom& stage : stages) {
    least = std::min(least, value(stage));
    most = std::max(most, value(stage));
  }
  return least < tolerance * most;
}

template <typename Value>
std::string List(const std::vector<StageRoom>& stages, Value value) {
  return absl::StrJoin(stages, ", ", [&](std::string* out, const StageRoom& stage) {
    absl::StrAppendFormat(out, "%.3g", value(stage));
  });
}

// "speed (1, 0.5)", "room for KV cache (1.5, 3 GB)", or both.
std::string DescribeDifference(const std::vector<StageRoom>& stages) {
  std::vector<std::string> parts;
  const auto speed = [](const StageRoom& stage) { return stage.speed; };
  if (Differ(stages, 1, speed)) {
    double most = 0;
    for (const StageRoom& stage : stages) most = std::max(most, stage.speed);
    parts.push_back(absl::StrCat(
        "speed (", List(stages, [&](const auto& stage) { return stage.speed / most; }), ")"));
  }
  if (Differ(stages, kAlike, KvRoom)) {
    parts.push_back(
        absl::StrCat("room for KV cache (",
                     List(stages, [](const auto& stage) { return KvRoom(stage) / 1e9; }), " GB)"));
  }
  return absl::StrJoin(parts, " and ");
}

std::string Name(std::span<const int64_t> layers) {
  return absl::StrCat("stages of ", absl::StrJoin(layers, ","), " layers");
}

}  // namespace

std::vector<int64_t> EvenLayers(int64_t layers, int64_t stages) {
  std::vector<int64_t> even(static_cast<size_t>(stages), layers / stages);
  std::for_each_n(even.begin(), layers % stages, [](int64_t& stage) { ++stage; });
  return even;
}

std::optional<SplitValue> ValueOf(const SplitDemand& demand, std::span<const int64_t> layers) {
  const Stages stages(demand);
  CHECK(layers.size() == stages.count());
  SplitValue value{.units = demand.units_enough};
  size_t begin = 0;
  for (size_t stage = 0; stage < layers.size(); ++stage) {
    const size_t end = begin + static_cast<size_t>(layers[stage]);
    const double units = stages.Units(stage, begin, end);
    if (units < 0) return std::nullopt;
    const double seconds = stages.Seconds(stage, begin, end);
    value.slowest = std::max(value.slowest, seconds);
    value.total += seconds;
    value.units = std::min(value.units, units);
    begin = end;
  }
  return value;
}

std::optional<StageSplit> BestSplit(const SplitDemand& demand) {
  const Cheapest best = FindBest(demand);
  if (best.layers.empty()) return std::nullopt;
  return StageSplit(best.layers);
}

ChosenSplit ChooseSplit(const SplitDemand& demand) {
  const auto layers = static_cast<int64_t>(demand.costs.bytes.size());
  const auto stages = static_cast<int64_t>(demand.stages.size());
  const std::vector<int64_t> even = EvenLayers(layers, stages);
  if (stages > StageSplit::kStagesMax || layers * layers > kSplitWorkMax / stages) {
    return {.split = {}, .reason = Name(even) + ": too many to choose others"};
  }
  const std::optional<SplitValue> even_value = ValueOf(demand, even);
  const std::string difference = DescribeDifference(demand.stages);
  if (difference.empty() && even_value.has_value()) {
    return {.split = {}, .reason = Name(even) + ": they have equal speed and room for KV cache"};
  }
  const Cheapest best = FindBest(demand);
  if (best.layers.empty()) {
    return {.split = {}, .reason = Name(even) + ": no other ones fit the memory either"};
  }
  std::string reason = absl::StrCat(
      Name(best.layers), ": ",
      difference.empty() ? "even ones do not fit" : absl::StrCat("they differ in ", difference));
  if (best.layers == even) return {.split = {}, .reason = std::move(reason)};
  if (even_value.has_value()) {
    const SplitValue value = *ValueOf(demand, best.layers);
    absl::StrAppendFormat(&reason, "; to %s, the slowest takes %.2f times as long",
                          absl::StrJoin(even, ","), value.slowest / even_value->slowest);
    if (value.units != even_value->units) {
      absl::StrAppendFormat(&reason, " and the KV cache holds %.2f times as much",
                            value.units / even_value->units);
    }
  }
  return {.split = StageSplit(best.layers), .reason = std::move(reason)};
}

}  // namespace trireme
