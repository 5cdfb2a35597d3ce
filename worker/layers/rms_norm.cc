#include "worker/layers/rms_norm.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<RmsNorm> RmsNorm::Load(const RankContext& rank, const ModelConfig& config,
                                      const std::string& name) {
  RmsNorm norm;
  norm.ops_ = rank.ops;
  norm.eps_ = static_cast<float>(config.rms_norm_eps);
  ASSIGN_OR_RETURN(std::vector<float> weight, rank.weights->Floats(absl::StrCat(name, ".weight")));
  if (config.norm_weights_minus_one) {
    for (float& value : weight) value += 1.0f;
  }
  RETURN_IF_ERROR(norm.weight_.Assign(rank.ops->memory(), weight));
  return norm;
}

Ops::Normed RmsNorm::Of(std::span<float> hidden, std::span<const float> delta,
                        std::span<const float> bias, std::span<float> out) const {
  return {.hidden = hidden,
          .delta = delta,
          .bias = bias,
          .weight = weight_.span(),
          .eps = eps_,
          .out = out};
}

}  // namespace trireme
