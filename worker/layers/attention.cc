#include "worker/layers/attention.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<Attention> Attention::Load(const RankContext& rank, const ModelConfig& config,
                                          const std::string& name, int64_t layer) {
  Attention attention;
  attention.ops_ = rank.ops;
  attention.scratch_ = rank.scratch;
  const float scale = config.attention_scale > 0
                          ? static_cast<float>(config.attention_scale)
                          : 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  const int64_t window = config.LayerWindow(layer);
  attention.shape_ = {.heads = rank.shard.heads.size(),
                      .scale = scale,
                      .window = window,
                      .local_rope = config.rope_local_theta > 0 && window > 0};
  const auto column = [&](const char* suffix) {
    return ColumnParallelLinear::Load(rank, absl::StrCat(name, suffix), config.qkv_bias);
  };
  ASSIGN_OR_RETURN(attention.q_, column(".q_proj"));
  ASSIGN_OR_RETURN(attention.k_, column(".k_proj"));
  ASSIGN_OR_RETURN(attention.v_, column(".v_proj"));
  ASSIGN_OR_RETURN(attention.o_,
                   RowParallelLinear::Load(rank, absl::StrCat(name, ".o_proj"), config.o_bias,
                                           ReductionGroups(config.num_heads)));
  if (config.qk_norm) {
    ASSIGN_OR_RETURN(attention.q_norm_, RmsNorm::Load(rank, config, absl::StrCat(name, ".q_norm")));
    ASSIGN_OR_RETURN(attention.k_norm_, RmsNorm::Load(rank, config, absl::StrCat(name, ".k_norm")));
  }
  return attention;
}

absl::Status Attention::Forward(const StepBatch& batch, const KvLayer& cache, const Ops::Input& x,
                                std::span<float> y) {
  auto& scratch = scratch_->attention;
  const auto room = [&](DeviceVector<float>& vector, const ColumnParallelLinear& of) {
    return vector.Resize(ops_->memory(), batch.tokens() * of.out_features());
  };
  ASSIGN_OR_RETURN(const std::span<float> q, room(scratch.q, *q_));
  ASSIGN_OR_RETURN(const std::span<float> k, room(scratch.k, *k_));
  ASSIGN_OR_RETURN(const std::span<float> v, room(scratch.v, *v_));
  ASSIGN_OR_RETURN(const std::span<float> attended, room(scratch.attended, *q_));
  ColumnParallelLinear::Forward(x, {{*q_, q}, {*k_, k}, {*v_, v}});
  if (q_norm_) {
    q_norm_->Forward(q);
    k_norm_->Forward(k);
  }
  ops_->RopeStoreKv(q, k, v, batch, shape_, cache);
  ops_->Attention(q, batch, cache, shape_, attended);
  return o_->Forward(attended, y);
}

}  // namespace trireme
