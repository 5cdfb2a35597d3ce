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
    if (layer.experts_.back().local_groups() != layer.experts_.front().local_groups()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "unsupported: ", name, " has experts whose matrices are of different types; quantise all",
          " experts alike"));
    }
  }
  return layer;
}

absl::Status MixtureOfExperts::Forward(const StepBatch& batch, const Ops::Input& input,
                                       std::span<float> y) {
  const auto experts = static_cast<int64_t>(experts_.size());
  const int64_t rows = batch.tokens() * choices_;
  Memory& memory = ops_->memory();
  ASSIGN_OR_RETURN(const auto scores, scores_.Resize(memory, batch.tokens() * experts));
  ASSIGN_OR_RETURN(const auto ids, ids_.Resize(memory, rows));
  ASSIGN_OR_RETURN(const auto weights, weights_.Resize(memory, rows));
  ASSIGN_OR_RETURN(const auto row_of, row_of_.Resize(memory, rows));
  ASSIGN_OR_RETURN(const auto token_of_row, token_of_row_.Resize(memory, rows));
  ASSIGN_OR_RETURN(const auto first_row, first_row_.Resize(memory, experts + 1));
  ASSIGN_OR_RETURN(const auto inputs, inputs_.Resize(memory, rows * hidden_size_));
  ASSIGN_OR_RETURN(const auto outputs, outputs_.Resize(memory, rows * hidden_size_));
  const std::span<const float> x = ops_->Materialize(input);
  router_->Forward(x, scores);
  ops_->TopKSoftmax(scores, experts, choices_, ids, weights);
  ops_->RouteExperts(batch, ids, first_row, token_of_row, row_of);
  ops_->GatherRows(x, hidden_size_, token_of_row, inputs);
  RETURN_IF_ERROR(GatedMlp::ForwardExperts(experts_, inputs, first_row, rows, outputs));
  RETURN_IF_ERROR(tp_->AllReduceSum(outputs));
  ops_->CombineRows(outputs, hidden_size_, row_of, weights, choices_, y);
  return absl::OkStatus();
}

}  // namespace trireme
