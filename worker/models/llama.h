#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/models/model.h"

namespace trireme {

// The Llama family: pre-norm decoder with RMSNorm, rotary embeddings, grouped-query attention and a
// SwiGLU MLP (Touvron et al. 2023). Tensor names are Hugging Face's.
absl::StatusOr<std::unique_ptr<Model>> MakeLlama(const ModelConfig& config,
                                                 const RankContext& rank);

}  // namespace trireme
