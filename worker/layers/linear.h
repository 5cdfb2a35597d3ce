#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/layers/rank_context.h"

namespace trireme {

// Megatron-style tensor parallel matrix products (Shoeybi et al. 2019). Together they are the only
// places, with the embedding, where a layer communicates.

// Y = X W^T + b, the rows of W split over the ranks: each computes its columns of Y. No
// communication.
class ColumnParallelLinear {
 public:
  // Loads NAME.weight, and NAME.bias if `bias`.
  static absl::StatusOr<ColumnParallelLinear> Load(const RankContext& rank, const std::string& name,
                                                   bool bias);
  int64_t out_features() const { return weight_.rows; }
  // x [tokens, in]; y [tokens, out_features()].
  void Forward(const Ops::Input& x, std::span<float> y) const;
  Ops::Product Into(std::span<float> y) const {
    return {.weight = weight_, .bias = bias_.span(), .y = y};
  }

  // Several layers of one input, for example queries, keys and values, in one product.
  struct Output {
    const ColumnParallelLinear& layer;
    std::span<float> y;
  };
  static void Forward(const Ops::Input& x, std::initializer_list<Output> outputs);

 private:
  Ops* ops_ = nullptr;
  Weight weight_;
  DeviceVector<float> bias_;
};

// Y = X W^T, the columns of W split over the ranks: each computes partial sums of all of Y, and an
// all-reduce adds them. The sum always has `groups` terms in one tree, whatever the number of ranks
// (docs/decisions/0001); fewer where `groups` would cut a quantised weight's blocks. The bias is
// not added here: it belongs to AddResidual, once.
class RowParallelLinear {
 public:
  static absl::StatusOr<RowParallelLinear> Load(const RankContext& rank, const std::string& name,
                                                bool bias, int groups);
  int64_t out_features() const { return weight_.rows; }
  std::span<const float> bias() const { return bias_.span(); }
  absl::Status Forward(const Ops::Input& x, std::span<float> y) const;
  // This rank's share of the sum, of local_groups() terms, for a caller that all-reduces it.
  Ops::Product PartInto(std::span<float> y) const {
    return {.weight = weight_, .bias = {}, .y = y};
  }
  int local_groups() const { return local_groups_; }

 private:
  Ops* ops_ = nullptr;
  DeviceCommunicator* tp_ = nullptr;
  Weight weight_;
  DeviceVector<float> bias_;
  int local_groups_ = 1;
};

}  // namespace trireme
