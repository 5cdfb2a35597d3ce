#include "worker/layers/linear.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

absl::StatusOr<std::vector<float>> LoadBias(const RankContext& rank, const std::string& name,
                                            bool bias) {
  if (!bias) return std::vector<float>();
  ASSIGN_OR_RETURN(const Weight values, rank.weights->Find(absl::StrCat(name, ".bias")));
  return ToFloats(values);
}

}  // namespace

absl::StatusOr<ColumnParallelLinear> ColumnParallelLinear::Load(const RankContext& rank,
                                                                const std::string& name,
                                                                bool bias) {
  ColumnParallelLinear layer;
  layer.ops_ = rank.ops;
  ASSIGN_OR_RETURN(layer.weight_, rank.weights->Find(absl::StrCat(name, ".weight")));
  ASSIGN_OR_RETURN(layer.bias_, LoadBias(rank, name, bias));
  return layer;
}

void ColumnParallelLinear::Forward(std::span<const float> x, std::span<float> y) const {
  ops_->Linear(x, weight_, bias_, /*groups=*/1, y);
}

absl::StatusOr<RowParallelLinear> RowParallelLinear::Load(const RankContext& rank,
                                                          const std::string& name, bool bias,
                                                          int groups) {
  CHECK(groups % rank.tp->size() == 0);
  RowParallelLinear layer;
  layer.ops_ = rank.ops;
  layer.tp_ = rank.tp;
  layer.local_groups_ = groups / rank.tp->size();
  ASSIGN_OR_RETURN(layer.weight_, rank.weights->Find(absl::StrCat(name, ".weight")));
  ASSIGN_OR_RETURN(layer.bias_, LoadBias(rank, name, bias));
  return layer;
}

absl::Status RowParallelLinear::Forward(std::span<const float> x, std::span<float> y) const {
  ForwardPartial(x, y);
  return tp_->AllReduceSum(y);
}

void RowParallelLinear::ForwardPartial(std::span<const float> x, std::span<float> y) const {
  ops_->Linear(x, weight_, {}, local_groups_, y);
}

}  // namespace trireme
