#include "worker/models/llama.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/layers/attention.h"
#include "worker/layers/embedding.h"
#include "worker/layers/mlp.h"

namespace trireme {
namespace {

struct DecoderLayer {
  Weight input_norm;
  Attention attention;
  Weight post_attention_norm;
  GatedMlp mlp;
};

absl::StatusOr<DecoderLayer> LoadLayer(const RankContext& rank, const ModelConfig& config,
                                       int64_t index) {
  const std::string name = absl::StrCat("model.layers.", index);
  DecoderLayer layer;
  ASSIGN_OR_RETURN(layer.input_norm,
                   rank.weights->Find(absl::StrCat(name, ".input_layernorm.weight")));
  ASSIGN_OR_RETURN(layer.attention,
                   Attention::Load(rank, config, absl::StrCat(name, ".self_attn"), index));
  ASSIGN_OR_RETURN(layer.post_attention_norm,
                   rank.weights->Find(absl::StrCat(name, ".post_attention_layernorm.weight")));
  ASSIGN_OR_RETURN(layer.mlp, GatedMlp::Load(rank, config, absl::StrCat(name, ".mlp")));
  return layer;
}

class Llama final : public Model {
 public:
  Llama(const ModelConfig& config, const RankContext& rank)
      : ops_(*rank.ops),
        hidden_size_(config.hidden_size),
        eps_(static_cast<float>(config.rms_norm_eps)) {}

  absl::Status Load(const ModelConfig& config, const RankContext& rank) {
    const std::string embedding = "model.embed_tokens";
    if (rank.shard.first_stage) {
      ASSIGN_OR_RETURN(embedding_, VocabParallelEmbedding::Load(rank, embedding));
    }
    for (int64_t i = rank.shard.layers.begin; i < rank.shard.layers.end; ++i) {
      ASSIGN_OR_RETURN(DecoderLayer layer, LoadLayer(rank, config, i));
      layers_.push_back(std::move(layer));
    }
    if (rank.shard.last_stage) {
      ASSIGN_OR_RETURN(final_norm_, rank.weights->Find("model.norm.weight"));
      ASSIGN_OR_RETURN(
          head_, VocabParallelHead::Load(rank, config.tie_word_embeddings ? embedding : "lm_head",
                                         config.vocab_size));
    }
    return absl::OkStatus();
  }

  absl::Status Embed(const StepBatch& batch, std::span<float> hidden) override {
    return embedding_->Forward(batch.ids, hidden);
  }

  absl::Status Layers(const StepBatch& batch, const KvCache& cache,
                      std::span<float> hidden) override {
    normed_.resize(hidden.size());
    delta_.resize(hidden.size());
    for (size_t i = 0; i < layers_.size(); ++i) {
      DecoderLayer& layer = layers_[i];
      ops_.RmsNorm(hidden, layer.input_norm, eps_, normed_);
      RETURN_IF_ERROR(
          layer.attention.Forward(batch, cache.layer(static_cast<int64_t>(i)), normed_, delta_));
      ops_.AddResidual(hidden, delta_, layer.attention.bias());
      ops_.RmsNorm(hidden, layer.post_attention_norm, eps_, normed_);
      RETURN_IF_ERROR(layer.mlp.Forward(normed_, batch.tokens(), delta_));
      ops_.AddResidual(hidden, delta_, layer.mlp.bias());
    }
    return absl::OkStatus();
  }

  absl::Status Logits(std::span<const int64_t> tokens, std::span<const float> hidden,
                      std::vector<float>& logits) override {
    const int64_t rows = static_cast<int64_t>(tokens.size());
    std::vector<float> last(static_cast<size_t>(rows * hidden_size_));
    for (int64_t row = 0; row < rows; ++row) {
      std::copy_n(hidden.begin() + tokens[static_cast<size_t>(row)] * hidden_size_, hidden_size_,
                  last.begin() + row * hidden_size_);
    }
    ops_.RmsNorm(last, *final_norm_, eps_, last);
    return head_->Forward(last, rows, logits);
  }

 private:
  Ops& ops_;
  const int64_t hidden_size_;
  const float eps_;
  std::optional<VocabParallelEmbedding> embedding_;
  std::vector<DecoderLayer> layers_;
  std::optional<Weight> final_norm_;
  std::optional<VocabParallelHead> head_;
  std::vector<float> normed_, delta_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeLlama(const ModelConfig& config,
                                                 const RankContext& rank) {
  auto model = std::make_unique<Llama>(config, rank);
  RETURN_IF_ERROR(model->Load(config, rank));
  return model;
}

}  // namespace trireme
