#pragma once

#include "absl/status/statusor.h"
#include "parallel/model_shape.h"
#include "parallel/stage_split.h"
#include "parallel/weight_types.h"

namespace trireme {

// What each layer, embedding and head cost the first of `tp` tensor parallel ranks; kv_bytes is
// left empty. A token reads its share of the experts. INVALID_ARGUMENT if tensor parallelism would
// cut a quantised matrix inside a block, or the files lack a tensor.
absl::StatusOr<LayerCosts> MeasureLayers(const ModelShape& shape, const WeightTypes& types, int tp,
                                         const WeightHolding& holding);

}  // namespace trireme
