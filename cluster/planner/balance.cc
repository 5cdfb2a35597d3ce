#include "cluster/planner/balance.h"

#include <algorithm>
#include <optional>

#include "base/status_macros.h"
#include "cluster/planner/stage.h"

namespace trireme {
namespace {

struct Sizes {
  std::vector<int64_t> layers;  // bytes of each
  int64_t first = 0;            // besides, in the first stage
  int64_t last = 0;             // and in the last one
};

// Of the first rank of each stage, which has most.
absl::StatusOr<Sizes> Measure(const ModelShape& shape, const WeightTypes& types,
                              const ParallelLayout& layout) {
  ModelShard shard = ComputeShard(shape.config, {.tp = layout.tp, .pp = 1}, {});
  const auto bytes = [&](IndexRange layers, bool first, bool last) {
    shard.layers = layers;
    shard.first_stage = first;
    shard.last_stage = last;
    return ShardBytes(shape, types, shard);
  };
  Sizes sizes;
  for (int64_t layer = 0; layer < shape.config.num_layers; ++layer) {
    ASSIGN_OR_RETURN(const int64_t size, bytes({.begin = layer, .end = layer + 1}, false, false));
    sizes.layers.push_back(size);
  }
  ASSIGN_OR_RETURN(sizes.first, bytes({}, true, false));
  ASSIGN_OR_RETURN(sizes.last, bytes({}, false, true));
  return sizes;
}

// The layers of each stage if none holds more than `limit`, the earlier ones as many as they can.
std::optional<std::vector<int64_t>> Split(const Sizes& sizes, size_t stages, int64_t limit) {
  std::vector<int64_t> split;
  size_t next = 0;
  for (size_t stage = 0; stage < stages; ++stage) {
    const bool last = stage + 1 == stages;
    const size_t end = sizes.layers.size() - (stages - stage - 1);  // one is left for each
    int64_t bytes = (stage == 0 ? sizes.first : 0) + (last ? sizes.last : 0);
    const size_t begin = next;
    while (next < end && bytes + sizes.layers[next] <= limit) bytes += sizes.layers[next++];
    if (next == begin) return std::nullopt;
    split.push_back(static_cast<int64_t>(next - begin));
  }
  if (next < sizes.layers.size()) return std::nullopt;
  return split;
}

}  // namespace

absl::StatusOr<BalancedLayers> BalanceLayers(const ModelShape& shape, const WeightTypes& types,
                                             const ParallelLayout& layout) {
  ASSIGN_OR_RETURN(const Sizes sizes, Measure(shape, types, layout));
  const auto stages = static_cast<size_t>(layout.pp);
  int64_t below = 0, enough = sizes.first + sizes.last;
  for (const int64_t bytes : sizes.layers) enough += bytes;
  while (below + 1 < enough) {
    const int64_t middle = below + (enough - below) / 2;
    (Split(sizes, stages, middle).has_value() ? enough : below) = middle;
  }
  return BalancedLayers{.layers = *Split(sizes, stages, enough), .max_weight_bytes = enough};
}

}  // namespace trireme
