#pragma once

#include "absl/status/statusor.h"
#include "parallel/gguf_file.h"
#include "parallel/model_config.h"

namespace trireme {

// The model's shape out of a GGUF file: its metadata, and what only the tensors tell (the
// vocabulary's size, tied embeddings, biases, Llama 3's frequency factors). The values are those
// that llama.cpp computes with, whose files these are. Architectures are named as Hugging Face
// does: GGUF's "llama" is also Mistral and Mixtral. What would change the arithmetic in a way that
// ModelConfig cannot say is refused.
absl::StatusOr<ModelConfig> GgufModelConfig(const GgufFile& file);

}  // namespace trireme
