#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/model_config.h"
#include "worker/layers/rank_context.h"

namespace trireme {

// RMSNorm over rows as long as its weight, which every rank holds whole (Zhang and Sennrich 2019).
class RmsNorm {
 public:
  // Loads NAME.weight; Gemma's are stored as w - 1.
  static absl::StatusOr<RmsNorm> Load(const RankContext& rank, const ModelConfig& config,
                                      const std::string& name);
  // x becomes its norm. x [rows, weight].
  void Forward(std::span<float> x) const { ops_->Materialize(Of(x, {}, {}, x)); }
  // For what multiplies the norm of hidden (+= delta + bias, where not empty).
  Ops::Normed Of(std::span<float> hidden, std::span<const float> delta, std::span<const float> bias,
                 std::span<float> out) const;

 private:
  Ops* ops_ = nullptr;
  DeviceVector<float> weight_;
  float eps_ = 0;
};

}  // namespace trireme
