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
  absl::Status Forward(std::span<const float> x, int64_t tokens, std::span<float> y) const;
  std::span<const float> bias() const { return down_->bias(); }
  // The same without the all-reduce: this rank's share of y.
  absl::Status ForwardPartial(std::span<const float> x, int64_t tokens, std::span<float> y) const;

 private:
  static absl::StatusOr<GatedMlp> LoadNamed(const RankContext& rank, const ModelConfig& config,
                                            const std::string& gate, const std::string& up,
                                            const std::string& down);
  absl::StatusOr<std::span<const float>> Inner(std::span<const float> x, int64_t tokens) const;

  Ops* ops_ = nullptr;
  LayerScratch* scratch_ = nullptr;
  std::optional<ColumnParallelLinear> gate_, up_;
  std::optional<RowParallelLinear> down_;
  Activation activation_ = Activation::kSilu;
};

}  // namespace trireme
