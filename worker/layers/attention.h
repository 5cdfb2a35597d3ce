#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/model_config.h"
#include "worker/layers/linear.h"
#include "worker/layers/rank_context.h"
#include "worker/layers/rms_norm.h"

namespace trireme {

// Grouped-query self-attention over the paged KV cache (Ainslie et al. 2023), the heads split over
// the ranks: q, k and v are column-parallel, the output projection is row-parallel.
class Attention {
 public:
  // NAME.q_proj ... NAME.o_proj, and NAME.q_norm, NAME.k_norm where the config has QK norm.
  static absl::StatusOr<Attention> Load(const RankContext& rank, const ModelConfig& config,
                                        const std::string& name, int64_t layer);

  // x [tokens, hidden]; y [tokens, hidden], without o_proj's bias, which is bias().
  absl::Status Forward(const StepBatch& batch, const KvLayer& cache, const Ops::Input& x,
                       std::span<float> y);
  std::span<const float> bias() const { return o_->bias(); }

 private:
  Ops* ops_ = nullptr;
  LayerScratch* scratch_ = nullptr;
  std::optional<ColumnParallelLinear> q_, k_, v_;
  std::optional<RowParallelLinear> o_;
  std::optional<RmsNorm> q_norm_, k_norm_;
  AttentionShape shape_;  // of this rank
};

}  // namespace trireme
