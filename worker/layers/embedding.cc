#include "worker/layers/embedding.h"

#include <algorithm>

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

absl::Status VocabParallelEmbedding::Forward(std::span<const int32_t> ids,
                                             std::span<float> out) const {
  ops_->Embedding(ids, table_, first_id_, scale_, out);
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

absl::Status VocabParallelHead::Forward(std::span<const float> x, int64_t rows,
                                        std::vector<float>& logits) {
  logits.resize(static_cast<size_t>(rows * vocab_size_));
  if (tp_->size() == 1) {
    ops_->Linear(x, weight_, {}, /*groups=*/1, logits);
    return absl::OkStatus();
  }
  // Every rank sends the same number of columns; the last ranks may have fewer of their own.
  const int64_t slice = (vocab_size_ + tp_->size() - 1) / tp_->size();
  mine_.resize(static_cast<size_t>(rows * slice));
  if (weight_.rows == slice) {
    ops_->Linear(x, weight_, {}, /*groups=*/1, mine_);
  } else if (weight_.rows > 0) {
    own_.resize(static_cast<size_t>(rows * weight_.rows));
    ops_->Linear(x, weight_, {}, /*groups=*/1, own_);
    for (int64_t row = 0; row < rows; ++row) {
      std::copy_n(own_.begin() + row * weight_.rows, weight_.rows, mine_.begin() + row * slice);
    }
  }
  all_.resize(mine_.size() * static_cast<size_t>(tp_->size()));
  RETURN_IF_ERROR(
      tp_->AllGather(std::as_bytes(std::span(mine_)), std::as_writable_bytes(std::span(all_))));
  ops_->ForEach(rows, [&](int64_t row) {
    for (int64_t r = 0; r < tp_->size(); ++r) {
      const int64_t first = r * slice;
      const int64_t count = std::clamp<int64_t>(vocab_size_ - first, 0, slice);
      std::copy_n(all_.begin() + (r * rows + row) * slice, count,
                  logits.begin() + row * vocab_size_ + first);
    }
  });
  return absl::OkStatus();
}

}  // namespace trireme
