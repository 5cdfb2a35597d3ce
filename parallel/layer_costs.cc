#include "parallel/layer_costs.h"

#include "base/status_macros.h"

namespace trireme {
namespace {

struct Cost {
  double bytes = 0;
  double read = 0;
};

absl::StatusOr<Cost> Sum(const ModelShape& shape, const WeightTypes& types, const ModelShard& shard,
                         const WeightHolding& holding) {
  const ModelConfig& config = shape.config;
  Cost sum;
  for (const TensorSlice& slice : shape.Tensors(shard)) {
    ASSIGN_OR_RETURN(const HeldSlice held, HeldAs(slice, types, holding));
    const auto bytes = static_cast<double>(held.bytes);
    const bool expert = slice.name.find(".experts.") != slice.name.npos;
    sum.bytes += bytes;
    sum.read += expert ? bytes * static_cast<double>(config.num_experts_per_token) /
                             static_cast<double>(config.num_experts)
                       : bytes;
  }
  return sum;
}

}  // namespace

absl::StatusOr<LayerCosts> MeasureLayers(const ModelShape& shape, const WeightTypes& types, int tp,
                                         const WeightHolding& holding) {
  ModelShard shard = ComputeShard(shape.config, {.tp = tp, .pp = 1}, {});
  const auto cost = [&](IndexRange layers, bool first, bool last) {
    shard.layers = layers;
    shard.first_stage = first;
    shard.last_stage = last;
    return Sum(shape, types, shard, holding);
  };
  LayerCosts costs;
  for (int64_t layer = 0; layer < shape.config.num_layers; ++layer) {
    ASSIGN_OR_RETURN(const Cost one, cost({.begin = layer, .end = layer + 1}, false, false));
    costs.bytes.push_back(one.bytes);
    costs.read.push_back(one.read);
  }
  ASSIGN_OR_RETURN(const Cost first, cost({}, true, false));
  ASSIGN_OR_RETURN(const Cost last, cost({}, false, true));
  costs.first_bytes = first.bytes;
  costs.last_bytes = last.bytes;
  return costs;
}

}  // namespace trireme
