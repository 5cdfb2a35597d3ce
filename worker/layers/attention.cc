#include "worker/layers/attention.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<Attention> Attention::Load(const RankContext& rank, const ModelConfig& config,
                                          const std::string& name, int64_t layer) {
  Attention attention;
  attention.ops_ = rank.ops;
  attention.heads_ = rank.shard.heads.size();
  attention.kv_heads_ = rank.shard.kv_heads.size();
  attention.head_dim_ = config.head_dim;
  attention.norm_eps_ = static_cast<float>(config.rms_norm_eps);
  attention.window_ = config.LayerWindow(layer);
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
    ASSIGN_OR_RETURN(attention.q_norm_, rank.weights->Find(absl::StrCat(name, ".q_norm.weight")));
    ASSIGN_OR_RETURN(attention.k_norm_, rank.weights->Find(absl::StrCat(name, ".k_norm.weight")));
  }
  return attention;
}

absl::Status Attention::Forward(const StepBatch& batch, const KvLayer& cache,
                                std::span<const float> x, std::span<float> y) {
  q_out_.resize(static_cast<size_t>(batch.tokens() * q_->out_features()));
  k_out_.resize(static_cast<size_t>(batch.tokens() * k_->out_features()));
  v_out_.resize(k_out_.size());
  attended_.resize(q_out_.size());
  q_->Forward(x, q_out_);
  k_->Forward(x, k_out_);
  v_->Forward(x, v_out_);
  if (q_norm_) {
    ops_->RmsNorm(q_out_, *q_norm_, norm_eps_, q_out_);
    ops_->RmsNorm(k_out_, *k_norm_, norm_eps_, k_out_);
  }
  ops_->Rope(q_out_, heads_, head_dim_, batch.cos, batch.sin);
  ops_->Rope(k_out_, kv_heads_, head_dim_, batch.cos, batch.sin);
  ops_->StoreKv(k_out_, v_out_, batch.places, cache);
  ops_->Attention(q_out_, batch.places, cache, heads_, window_, attended_);
  return o_->Forward(attended_, y);
}

}  // namespace trireme
