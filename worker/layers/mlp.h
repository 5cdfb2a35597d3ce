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

// SwiGLU feed-forward: down(silu(gate(x)) * up(x)), its inner dimension split over the ranks.
class GatedMlp {
 public:
  static absl::StatusOr<GatedMlp> Load(const RankContext& rank, const ModelConfig& config,
                                       const std::string& name);
  // x [tokens, hidden]; y [tokens, hidden], without down_proj's bias, which is bias().
  absl::Status Forward(std::span<const float> x, int64_t tokens, std::span<float> y);
  std::span<const float> bias() const { return down_->bias(); }

 private:
  Ops* ops_ = nullptr;
  std::optional<ColumnParallelLinear> gate_, up_;
  std::optional<RowParallelLinear> down_;
  std::vector<float> gate_out_, up_out_;
};

}  // namespace trireme
