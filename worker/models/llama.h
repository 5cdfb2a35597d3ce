#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "worker/models/model.h"

namespace trireme {

// The Llama family: pre-norm decoder with RMSNorm, rotary embeddings, grouped-query attention and a
// gated MLP (Touvron et al. 2023). With sandwich norms behind both blocks it is Gemma 3 (Gemma Team
// 2025), with a mixture of experts for the MLP Mixtral (Jiang et al. 2024). Tensor names are
// Hugging Face's.
absl::StatusOr<std::unique_ptr<Model>> MakeLlama(const ModelConfig& config,
                                                 const RankContext& rank);

}  // namespace trireme
