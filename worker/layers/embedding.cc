#include "worker/layers/embedding.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<VocabParallelEmbedding> VocabParallelEmbedding::Load(const RankContext& rank,
                                                                    const ModelConfig& config,
                                                                    const std::string& name) {
  VocabParallelEmbedding layer;
  layer.scale_ = static_cast<float>(config.embedding_scale);
  layer.ops_ = rank.ops;
  layer.tp_ = rank.tp;
  layer.first_id_ = rank.shard.vocab.begin;
  ASSIGN_OR_RETURN(layer.table_, rank.weights->Find(absl::StrCat(name, ".weight")));
  return layer;
}

absl::Status VocabParallelEmbedding::Forward(const StepBatch& batch, std::span<float> out) const {
  ops_->Embedding(batch, table_, first_id_, scale_, out);
  return tp_->AllReduceSum(out);
}

absl::StatusOr<VocabParallelHead> VocabParallelHead::Load(const RankContext& rank,
                                                          const std::string& name,
                                                          int64_t vocab_size) {
  VocabParallelHead layer;
  layer.ops_ = rank.ops;
  layer.tp_ = rank.tp;
  layer.vocab_size_ = vocab_size;
  ASSIGN_OR_RETURN(layer.weight_, rank.weights->Find(absl::StrCat(name, ".weight")));
  return layer;
}

absl::Status VocabParallelHead::Forward(const Ops::Input& x, int64_t rows,
                                        std::span<float> logits) {
  if (tp_->size() == 1) {
    ops_->Linear(x, weight_, {}, /*groups=*/1, logits);
    return absl::OkStatus();
  }
  // Every rank sends the same number of columns; the last ranks may have fewer of their own.
  const int64_t slice = (vocab_size_ + tp_->size() - 1) / tp_->size();
  Memory& memory = ops_->memory();
  ASSIGN_OR_RETURN(const std::span<float> mine, mine_.Resize(memory, rows * slice));
  if (weight_.rows == slice) {
    ops_->Linear(x, weight_, {}, /*groups=*/1, mine);
  } else if (weight_.rows > 0) {
    ASSIGN_OR_RETURN(const std::span<float> own, own_.Resize(memory, rows * weight_.rows));
    ops_->Linear(x, weight_, {}, /*groups=*/1, own);
    ops_->MergeColumns(own, rows, weight_.rows, slice, mine);
  }
  ASSIGN_OR_RETURN(const std::span<float> all, all_.Resize(memory, rows * slice * tp_->size()));
  RETURN_IF_ERROR(tp_->AllGather(std::as_bytes(mine), std::as_writable_bytes(all)));
  ops_->MergeColumns(all, rows, slice, vocab_size_, logits);
  return absl::OkStatus();
}

}  // namespace trireme
