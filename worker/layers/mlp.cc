#include "worker/layers/mlp.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<GatedMlp> GatedMlp::Load(const RankContext& rank, const ModelConfig& config,
                                        const std::string& name) {
  GatedMlp mlp;
  mlp.ops_ = rank.ops;
  ASSIGN_OR_RETURN(mlp.gate_, ColumnParallelLinear::Load(rank, absl::StrCat(name, ".gate_proj"),
                                                         config.mlp_bias));
  ASSIGN_OR_RETURN(
      mlp.up_, ColumnParallelLinear::Load(rank, absl::StrCat(name, ".up_proj"), config.mlp_bias));
  ASSIGN_OR_RETURN(mlp.down_,
                   RowParallelLinear::Load(rank, absl::StrCat(name, ".down_proj"), config.mlp_bias,
                                           ReductionGroups(config.intermediate_size)));
  return mlp;
}

absl::Status GatedMlp::Forward(std::span<const float> x, int64_t tokens, std::span<float> y) {
  gate_out_.resize(static_cast<size_t>(tokens * gate_->out_features()));
  up_out_.resize(gate_out_.size());
  gate_->Forward(x, gate_out_);
  up_->Forward(x, up_out_);
  ops_->SiluMul(gate_out_, up_out_);
  return down_->Forward(gate_out_, y);
}

}  // namespace trireme
