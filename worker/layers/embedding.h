#pragma once

#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/model_config.h"
#include "worker/layers/rank_context.h"

namespace trireme {

// Token embeddings times a scale, the vocabulary split over the ranks: one rank has a token's row,
// the others add 0.
class VocabParallelEmbedding {
 public:
  static absl::StatusOr<VocabParallelEmbedding> Load(const RankContext& rank,
                                                     const ModelConfig& config,
                                                     const std::string& name);
  // out [tokens, hidden].
  absl::Status Forward(const StepBatch& batch, std::span<float> out) const;
  int64_t bytes() const { return table_.rows * DTypeRowBytes(table_.dtype, table_.cols); }

 private:
  Ops* ops_ = nullptr;
  DeviceCommunicator* tp_ = nullptr;
  Weight table_;
  int64_t first_id_ = 0;
  float scale_ = 1.0f;
};

// Logits over the whole vocabulary: each rank computes its rows of lm_head, then all gather.
class VocabParallelHead {
 public:
  static absl::StatusOr<VocabParallelHead> Load(const RankContext& rank, const std::string& name,
                                                int64_t vocab_size);
  // x [rows, hidden]; logits [rows, vocab_size] on every rank.
  absl::Status Forward(const Ops::Input& x, int64_t rows, std::span<float> logits);

 private:
  Ops* ops_ = nullptr;
  DeviceCommunicator* tp_ = nullptr;
  Weight weight_;
  int64_t vocab_size_ = 0;
  DeviceVector<float> own_, mine_, all_;
};

}  // namespace trireme
