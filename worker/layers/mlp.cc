#include "worker/layers/mlp.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<GatedMlp> GatedMlp::Load(const RankContext& rank, const ModelConfig& config,
                                        const std::string& name) {
  return LoadNamed(rank, config, absl::StrCat(name, ".gate_proj"), absl::StrCat(name, ".up_proj"),
                   absl::StrCat(name, ".down_proj"));
}

absl::StatusOr<GatedMlp> GatedMlp::LoadExpert(const RankContext& rank, const ModelConfig& config,
                                              const std::string& name) {
  return LoadNamed(rank, config, absl::StrCat(name, ".w1"), absl::StrCat(name, ".w3"),
                   absl::StrCat(name, ".w2"));
}

absl::StatusOr<GatedMlp> GatedMlp::LoadNamed(const RankContext& rank, const ModelConfig& config,
                                             const std::string& gate, const std::string& up,
                                             const std::string& down) {
  GatedMlp mlp;
  mlp.ops_ = rank.ops;
  mlp.scratch_ = rank.scratch;
  mlp.activation_ = config.activation;
  ASSIGN_OR_RETURN(mlp.gate_, ColumnParallelLinear::Load(rank, gate, config.mlp_bias));
  ASSIGN_OR_RETURN(mlp.up_, ColumnParallelLinear::Load(rank, up, config.mlp_bias));
  ASSIGN_OR_RETURN(mlp.down_, RowParallelLinear::Load(rank, down, config.mlp_bias,
                                                      ReductionGroups(config.intermediate_size)));
  return mlp;
}

// activation(gate(x)) * up(x), in the scratch.
absl::StatusOr<std::span<const float>> GatedMlp::Inner(std::span<const float> x,
                                                       int64_t tokens) const {
  const int64_t size = tokens * gate_->out_features();
  ASSIGN_OR_RETURN(const std::span<float> gate, scratch_->mlp.gate.Resize(ops_->memory(), size));
  ASSIGN_OR_RETURN(const std::span<float> up, scratch_->mlp.up.Resize(ops_->memory(), size));
  ColumnParallelLinear::Forward(x, {{*gate_, gate}, {*up_, up}});
  switch (activation_) {
    case Activation::kSilu:
      ops_->SiluMul(gate, up);
      break;
    case Activation::kGeluTanh:
      ops_->GeluTanhMul(gate, up);
      break;
  }
  return gate;
}

absl::Status GatedMlp::Forward(std::span<const float> x, int64_t tokens, std::span<float> y) const {
  ASSIGN_OR_RETURN(const std::span<const float> inner, Inner(x, tokens));
  return down_->Forward(inner, y);
}

absl::Status GatedMlp::ForwardPartial(std::span<const float> x, int64_t tokens,
                                      std::span<float> y) const {
  ASSIGN_OR_RETURN(const std::span<const float> inner, Inner(x, tokens));
  down_->ForwardPartial(inner, y);
  return absl::OkStatus();
}

}  // namespace trireme
