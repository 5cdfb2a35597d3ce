#include "worker/layers/moe.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<MixtureOfExperts> MixtureOfExperts::Load(const RankContext& rank,
                                                        const ModelConfig& config,
                                                        const std::string& name) {
  MixtureOfExperts layer;
  layer.ops_ = rank.ops;
  layer.tp_ = rank.tp;
  layer.hidden_size_ = config.hidden_size;
  layer.choices_ = config.num_experts_per_token;
  ASSIGN_OR_RETURN(layer.router_,
                   ColumnParallelLinear::Load(rank, absl::StrCat(name, ".gate"), /*bias=*/false));
  for (int64_t e = 0; e < config.num_experts; ++e) {
    ASSIGN_OR_RETURN(GatedMlp expert,
                     GatedMlp::LoadExpert(rank, config, absl::StrCat(name, ".experts.", e)));
    layer.experts_.push_back(std::move(expert));
  }
  return layer;
}

// Chooses experts and sorts the choices by expert, those of one expert by token.
void MixtureOfExperts::Route(std::span<const float> x, int64_t tokens) {
  const int64_t experts = static_cast<int64_t>(experts_.size());
  const size_t choices = static_cast<size_t>(tokens * choices_);
  scores_.resize(static_cast<size_t>(tokens * experts));
  chosen_.resize(choices);
  weights_.resize(choices);
  router_->Forward(x, scores_);
  ops_->TopKSoftmax(scores_, experts, choices_, chosen_, weights_);

  first_row_.assign(static_cast<size_t>(experts) + 1, 0);
  for (const int32_t expert : chosen_) ++first_row_[static_cast<size_t>(expert) + 1];
  for (size_t e = 1; e < first_row_.size(); ++e) first_row_[e] += first_row_[e - 1];
  std::vector<int64_t> next(first_row_.begin(), first_row_.end() - 1);
  by_expert_.resize(choices);
  row_of_.resize(choices);
  for (size_t choice = 0; choice < choices; ++choice) {
    const int64_t row = next[static_cast<size_t>(chosen_[choice])]++;
    row_of_[choice] = row;
    by_expert_[static_cast<size_t>(row)] = static_cast<int64_t>(choice);
  }
}

absl::Status MixtureOfExperts::Forward(std::span<const float> x, int64_t tokens,
                                       std::span<float> y) {
  Route(x, tokens);
  const int64_t rows = tokens * choices_;
  const int64_t n = hidden_size_;
  inputs_.resize(static_cast<size_t>(rows * n));
  outputs_.resize(inputs_.size());
  ops_->ForEach(rows, [&](int64_t row) {
    const int64_t token = by_expert_[static_cast<size_t>(row)] / choices_;
    std::copy_n(x.begin() + token * n, n, inputs_.begin() + row * n);
  });
  for (size_t e = 0; e < experts_.size(); ++e) {
    const int64_t count = first_row_[e + 1] - first_row_[e];
    if (count == 0) continue;
    const size_t begin = static_cast<size_t>(first_row_[e] * n);
    const size_t size = static_cast<size_t>(count * n);
    RETURN_IF_ERROR(experts_[e].ForwardPartial(std::span(inputs_).subspan(begin, size), count,
                                               std::span(outputs_).subspan(begin, size)));
  }
  RETURN_IF_ERROR(tp_->AllReduceSum(outputs_));
  ops_->ForEach(tokens, [&](int64_t token) {
    float* to = y.data() + token * n;
    for (int64_t j = 0; j < choices_; ++j) {
      const size_t choice = static_cast<size_t>(token * choices_ + j);
      const float* from = outputs_.data() + row_of_[choice] * n;
      const float weight = weights_[choice];
      for (int64_t i = 0; i < n; ++i) to[i] = (j == 0 ? 0.0f : to[i]) + weight * from[i];
    }
  });
  return absl::OkStatus();
}

}  // namespace trireme
