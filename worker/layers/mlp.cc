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
  switch (config.activation) {
    case Activation::kSilu:
      mlp.activation_ = Ops::Gated::Activation::kSilu;
      break;
    case Activation::kGeluTanh:
      mlp.activation_ = Ops::Gated::Activation::kGeluTanh;
      break;
  }
  ASSIGN_OR_RETURN(mlp.gate_, ColumnParallelLinear::Load(rank, gate, config.mlp_bias));
  ASSIGN_OR_RETURN(mlp.up_, ColumnParallelLinear::Load(rank, up, config.mlp_bias));
  ASSIGN_OR_RETURN(mlp.down_, RowParallelLinear::Load(rank, down, config.mlp_bias,
                                                      ReductionGroups(config.intermediate_size)));
  return mlp;
}

absl::StatusOr<Ops::Gated> GatedMlp::Room(int64_t rows) const {
  Ops::Gated room{.activation = activation_, .gate = {}, .up = {}};
  const int64_t size = rows * gate_->out_features();
  ASSIGN_OR_RETURN(room.gate, scratch_->mlp.gate.Resize(ops_->memory(), size));
  ASSIGN_OR_RETURN(room.up, scratch_->mlp.up.Resize(ops_->memory(), size));
  return room;
}

absl::Status GatedMlp::Forward(const StepBatch& batch, const Ops::Input& x,
                               std::span<float> y) const {
  ASSIGN_OR_RETURN(const Ops::Gated inner, Room(batch.tokens()));
  ColumnParallelLinear::Forward(x, {{*gate_, inner.gate}, {*up_, inner.up}});
  return down_->Forward(inner, y);
}

absl::Status GatedMlp::ForwardExperts(std::span<const GatedMlp> experts, std::span<const float> x,
                                      std::span<const int32_t> first_row, int64_t rows,
                                      std::span<float> y) {
  const GatedMlp& first = experts.front();
  ASSIGN_OR_RETURN(const Ops::Gated inner, first.Room(rows));
  std::vector<Ops::Product> in, out;
  for (const GatedMlp& expert : experts) {
    in.push_back(expert.gate_->Into(inner.gate));
    in.push_back(expert.up_->Into(inner.up));
    out.push_back(expert.down_->PartInto(y));
  }
  first.ops_->ExpertLinear(x, first_row, in, /*groups=*/1);
  first.ops_->ExpertLinear(first.ops_->Materialize(inner), first_row, out, first.local_groups());
  return absl::OkStatus();
}

}  // namespace trireme
