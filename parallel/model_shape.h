#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/model_config.h"
#include "parallel/quantization_config.h"
#include "parallel/shard.h"

namespace trireme {

// What a model is made of, for sizing: of each architecture that workers compute, and of Mllama
// (Llama 3.2 Vision), which they do not.
//
// Mllama's decoder is Llama's, but that in some layers attention is not to the tokens before but to
// the patches of the images (cross_attn in place of self_attn): their keys and values are computed
// once for an image and do not grow with the context. The vision tower is on every rank of the
// first stage, whole.
struct ModelShape {
  ModelConfig config;               // of the decoder
  bool computed = true;             // false: workers refuse it, it can only be sized
  std::string sizing_dtype;         // "BF16", "F16" or "F32": what config.json says the weights are
  QuantizationConfig quantization;  // of a checkpoint directory
  int64_t extra_embedding_rows = 0;      // behind the vocabulary, for images
  std::vector<uint8_t> cross_attention;  // one for each layer; empty: none is
  int64_t image_tokens = 0;              // keys and values of an image in such a layer
  std::vector<TensorSlice> vision;       // of the tower and its projector; empty: none

  bool IsCrossAttention(int64_t layer) const {
    return !cross_attention.empty() && cross_attention[static_cast<size_t>(layer)] != 0;
  }

  // Reads a checkpoint directory, a GGUF file, or a config.json alone. Errors name the file, the
  // key and what would be accepted.
  static absl::StatusOr<ModelShape> Load(const std::filesystem::path& model);
  // Parses the text of a config.json; `origin` names it in errors.
  static absl::StatusOr<ModelShape> Parse(std::string_view json, std::string_view origin);

  // Every slice that a rank holds, each once, as ShardTensors for the decoder, and what the
  // architecture has besides.
  std::vector<TensorSlice> Tensors(const ModelShard& shard) const;
  uint64_t NumParameters() const;
};

}  // namespace trireme
