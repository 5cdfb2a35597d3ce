#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/model_config.h"
#include "worker/layers/linear.h"
#include "worker/layers/rank_context.h"

namespace trireme {

// Gated feed-forward: down(activation(gate(x)) * up(x)), its inner dimension split over the ranks
// (Shazeer 2020).
class GatedMlp {
 public:
  // NAME.gate_proj, .up_proj and .down_proj; of an expert NAME.w1, .w3 and .w2.
  static absl::StatusOr<GatedMlp> Load(const RankContext& rank, const ModelConfig& config,
                                       const std::string& name);
  static absl::StatusOr<GatedMlp> LoadExpert(const RankContext& rank, const ModelConfig& config,
                                             const std::string& name);
  // x [tokens, hidden]; y [tokens, hidden], without down_proj's bias, which is bias().
  absl::Status Forward(const StepBatch& batch, const Ops::Input& x, std::span<float> y) const;
  std::span<const float> bias() const { return down_->bias(); }
  // Of a mixture's experts, all of one shape: each for its rows of x, as Ops::RouteExperts has
  // sorted them, without the all-reduce: this rank's share of y.
  static absl::Status ForwardExperts(std::span<const GatedMlp> experts, std::span<const float> x,
                                     std::span<const int32_t> first_row, int64_t rows,
                                     std::span<float> y);
  // The terms of this rank's share of the sum.
  int local_groups() const { return down_->local_groups(); }

 private:
  static absl::StatusOr<GatedMlp> LoadNamed(const RankContext& rank, const ModelConfig& config,
                                            const std::string& gate, const std::string& up,
                                            const std::string& down);
  absl::StatusOr<Ops::Gated> Room(int64_t rows) const;

  Ops* ops_ = nullptr;
  LayerScratch* scratch_ = nullptr;
  std::optional<ColumnParallelLinear> gate_, up_;
  std::optional<RowParallelLinear> down_;
  Ops::Gated::Activation activation_ = Ops::Gated::Activation::kSilu;
};

}  // namespace trireme
