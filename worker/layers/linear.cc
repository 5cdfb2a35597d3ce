#include "worker/layers/linear.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/quant/bf16.h"

namespace trireme {
namespace {

absl::StatusOr<DeviceVector<float>> LoadBias(const RankContext& rank, const std::string& name,
                                             bool bias) {
  DeviceVector<float> loaded;
  if (!bias) return loaded;
  ASSIGN_OR_RETURN(const std::vector<float> values,
                   rank.weights->Floats(absl::StrCat(name, ".bias")));
  RETURN_IF_ERROR(loaded.Assign(rank.ops->memory(), values));
  return loaded;
}

// The largest number of groups, at most `groups`, that does not cut blocks of columns.
absl::StatusOr<int> WholeBlockGroups(const Weight& weight, const std::string& name, int groups,
                                     int tp) {
  if (!weight.packed) return groups;
  const int64_t columns = IsQuantized(weight.dtype) ? quant::kBlockColumns : quant::Bf16::kColumns;
  const int64_t blocks = weight.cols * tp / columns;
  while (groups > 1 && (weight.cols * tp % columns != 0 || blocks % groups != 0)) groups /= 2;
  if (groups % tp == 0) return groups;
  return absl::InvalidArgumentError(
      absl::StrCat("unsupported: --tp ", tp, " for ", name, ": its ", blocks, " blocks of ",
                   columns, " columns make at most ", groups, " partial sums"));
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

void ColumnParallelLinear::Forward(const Ops::Input& x, std::span<float> y) const {
  ops_->Linear(x, weight_, bias_.span(), /*groups=*/1, y);
}

void ColumnParallelLinear::Forward(const Ops::Input& x, std::initializer_list<Output> outputs) {
  std::vector<Ops::Product> products;
  for (const Output& output : outputs) {
    products.push_back(output.layer.Into(output.y));
  }
  outputs.begin()->layer.ops_->Linear(x, products, /*groups=*/1);
}

absl::StatusOr<RowParallelLinear> RowParallelLinear::Load(const RankContext& rank,
                                                          const std::string& name, bool bias,
                                                          int groups) {
  CHECK(groups % rank.tp->size() == 0);
  RowParallelLinear layer;
  layer.ops_ = rank.ops;
  layer.tp_ = rank.tp;
  ASSIGN_OR_RETURN(layer.weight_, rank.weights->Find(absl::StrCat(name, ".weight")));
  ASSIGN_OR_RETURN(groups, WholeBlockGroups(layer.weight_, name, groups, rank.tp->size()));
  layer.local_groups_ = groups / rank.tp->size();
  ASSIGN_OR_RETURN(layer.bias_, LoadBias(rank, name, bias));
  return layer;
}

absl::Status RowParallelLinear::Forward(const Ops::Input& x, std::span<float> y) const {
  ops_->Linear(x, weight_, {}, local_groups_, y);
  return tp_->AllReduceSum(y);
}

}  // namespace trireme
