#include "worker/layers/moe.h"

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

// Chooses experts and sorts the choices by expert, those of one expert by token. The host must know
// how many chose which: it runs the experts.
absl::Status MixtureOfExperts::Route(std::span<const float> x, int64_t tokens) {
  const int64_t experts = static_cast<int64_t>(experts_.size());
  Memory& memory = ops_->memory();
  ASSIGN_OR_RETURN(const std::span<float> scores, scores_.Resize(memory, tokens * experts));
  ASSIGN_OR_RETURN(const std::span<int32_t> ids, ids_.Resize(memory, tokens * choices_));
  ASSIGN_OR_RETURN(const std::span<float> weights, weights_.Resize(memory, tokens * choices_));
  router_->Forward(x, scores);
  ops_->TopKSoftmax(scores, experts, choices_, ids, weights);

  ASSIGN_OR_RETURN(const std::span<const int32_t> chosen,
                   memory.Read(std::span<const int32_t>(ids), room_));
  first_row_.assign(static_cast<size_t>(experts) + 1, 0);
  for (const int32_t expert : chosen) ++first_row_[static_cast<size_t>(expert) + 1];
  for (size_t e = 1; e < first_row_.size(); ++e) first_row_[e] += first_row_[e - 1];
  std::vector<int64_t> next(first_row_.begin(), first_row_.end() - 1);
  std::vector<int32_t> token_of(chosen.size());
  std::vector<int32_t> row_of(chosen.size());
  for (size_t choice = 0; choice < chosen.size(); ++choice) {
    const int64_t row = next[static_cast<size_t>(chosen[choice])]++;
    row_of[choice] = static_cast<int32_t>(row);
    token_of[static_cast<size_t>(row)] =
        static_cast<int32_t>(static_cast<int64_t>(choice) / choices_);
  }
  RETURN_IF_ERROR(token_of_.Assign(memory, token_of));
  return row_of_.Assign(memory, row_of);
}

absl::Status MixtureOfExperts::Forward(std::span<const float> x, int64_t tokens,
                                       std::span<float> y) {
  RETURN_IF_ERROR(Route(x, tokens));
  const int64_t size = tokens * choices_ * hidden_size_;
  ASSIGN_OR_RETURN(const std::span<float> inputs, inputs_.Resize(ops_->memory(), size));
  ASSIGN_OR_RETURN(const std::span<float> outputs, outputs_.Resize(ops_->memory(), size));
  ops_->GatherRows(x, hidden_size_, token_of_.span(), inputs);
  for (size_t e = 0; e < experts_.size(); ++e) {
    const int64_t count = first_row_[e + 1] - first_row_[e];
    if (count == 0) continue;
    const size_t begin = static_cast<size_t>(first_row_[e] * hidden_size_);
    const size_t length = static_cast<size_t>(count * hidden_size_);
    RETURN_IF_ERROR(experts_[e].ForwardPartial(inputs.subspan(begin, length), count,
                                               outputs.subspan(begin, length)));
  }
  RETURN_IF_ERROR(tp_->AllReduceSum(outputs));
  ops_->CombineRows(outputs, hidden_size_, row_of_.span(), weights_.span(), choices_, y);
  return absl::OkStatus();
}

}  // namespace trireme
