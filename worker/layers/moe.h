#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/model_config.h"
#include "worker/layers/mlp.h"
#include "worker/layers/rank_context.h"

namespace trireme {

// Sparse mixture of experts (Shazeer et al. 2017; Jiang et al. 2024): a router chooses
// num_experts_per_token gated MLPs for each token and weighs them by the softmax of their scores.
//
// Every rank has the router, so all choose alike, and its part of the inner dimension of every
// expert, as of a dense MLP. What an expert gives for a token is therefore the fixed tree of
// partial sums of decision 0001, and only when the all-reduce has completed it do the experts'
// outputs meet, in the order of the token's choices. The bits depend neither on tp nor on which
// other tokens chose the same expert. See docs/decisions/0007.
class MixtureOfExperts {
 public:
  // NAME.gate and NAME.experts.E.w1, .w2, .w3.
  static absl::StatusOr<MixtureOfExperts> Load(const RankContext& rank, const ModelConfig& config,
                                               const std::string& name);
  // x [tokens, hidden]; y [tokens, hidden].
  absl::Status Forward(const StepBatch& batch, const Ops::Input& input, std::span<float> y);
  std::span<const float> bias() const { return {}; }

 private:
  Ops* ops_ = nullptr;
  DeviceCommunicator* tp_ = nullptr;
  std::optional<ColumnParallelLinear> router_;
  std::vector<GatedMlp> experts_;
  int64_t hidden_size_ = 0;
  int64_t choices_ = 0;  // experts for each token

  // Of the last call. A choice is one of a token's experts; each has a row of the sorted inputs and
  // outputs, the first rows are expert 0's, and so on.
  DeviceVector<float> scores_;          // [tokens, experts]
  DeviceVector<int32_t> ids_;           // [tokens, choices]: the experts
  DeviceVector<float> weights_;         // [tokens, choices]
  DeviceVector<int32_t> row_of_;        // [tokens, choices]
  DeviceVector<int32_t> token_of_row_;  // [tokens * choices]
  DeviceVector<int32_t> first_row_;     // [experts + 1]: an expert's
  DeviceVector<float> inputs_;          // [tokens * choices, hidden]
  DeviceVector<float> outputs_;         // [tokens * choices, hidden]
};

}  // namespace trireme
