#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/layout.h"
#include "parallel/model_shape.h"
#include "parallel/weight_types.h"

namespace trireme {

// Layers of each stage, such that the rank with the most weights has as few as possible: the stage
// with the embedding or the head takes fewer.
struct BalancedLayers {
  std::vector<int64_t> layers;
  int64_t max_weight_bytes = 0;
};

// For --stage-layers of workers. The layout is legal; its own stage_layers do not count.
absl::StatusOr<BalancedLayers> BalanceLayers(const ModelShape& shape, const WeightTypes& types,
                                             const ParallelLayout& layout);

}  // namespace trireme
