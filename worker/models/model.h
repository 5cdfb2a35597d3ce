#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "parallel/model_config.h"
#include "worker/kv_cache.h"
#include "worker/layers/rank_context.h"

namespace trireme {

// One rank's part of a model: its pipeline stage's layers, its tensor parallel slice of each.
// Not thread safe. Activations lie in the memory of the rank's Ops, which are told of the step
// (Ops::BeginStep) by the caller. The collectives inside require every rank of the tensor parallel
// group to make the same calls.
class Model {
 public:
  virtual ~Model() = default;

  // First stage only: token embeddings. hidden [tokens, hidden_size].
  virtual absl::Status Embed(const StepBatch& batch, std::span<float> hidden) = 0;
  // This stage's layers, in place.
  virtual absl::Status Layers(const StepBatch& batch, const KvCache& cache,
                              std::span<float> hidden) = 0;
  // Last stage only: logits [tokens, vocab_size] of some of the batch's wanted tokens, a part of
  // Ops::Wanted.
  virtual absl::Status Logits(std::span<const int32_t> tokens, std::span<const float> hidden,
                              std::span<float> logits) = 0;
  // Bytes of this rank's weights that a step does not read, but for its tokens' rows.
  virtual int64_t lookup_bytes() const = 0;
};

// Makes the model of config.architecture. The registry is the table in registry.cc: a new
// architecture is one file beside this one and one row there.
absl::StatusOr<std::unique_ptr<Model>> MakeModel(const ModelConfig& config,
                                                 const RankContext& rank);

}  // namespace trireme
