#include "worker/models/llama.h"

#include <optional>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/layers/attention.h"
#include "worker/layers/embedding.h"
#include "worker/layers/mlp.h"
#include "worker/layers/moe.h"
#include "worker/layers/rms_norm.h"

namespace trireme {
namespace {

using FeedForward = std::variant<GatedMlp, MixtureOfExperts>;

struct DecoderLayer {
  RmsNorm input_norm;
  Attention attention;
  std::optional<RmsNorm> attention_output_norm;  // the outer halves of sandwich norms
  RmsNorm feed_forward_norm;
  FeedForward feed_forward;
  std::optional<RmsNorm> feed_forward_output_norm;
};

absl::StatusOr<FeedForward> LoadFeedForward(const RankContext& rank, const ModelConfig& config,
                                            const std::string& layer) {
  if (config.num_experts > 0) {
    return MixtureOfExperts::Load(rank, config, absl::StrCat(layer, ".block_sparse_moe"));
  }
  return GatedMlp::Load(rank, config, absl::StrCat(layer, ".mlp"));
}

absl::StatusOr<DecoderLayer> LoadLayer(const RankContext& rank, const ModelConfig& config,
                                       int64_t index) {
  const std::string name = absl::StrCat("model.layers.", index);
  const auto norm = [&](const char* suffix) {
    return RmsNorm::Load(rank, config, absl::StrCat(name, suffix));
  };
  DecoderLayer layer;
  ASSIGN_OR_RETURN(layer.input_norm, norm(".input_layernorm"));
  ASSIGN_OR_RETURN(layer.attention,
                   Attention::Load(rank, config, absl::StrCat(name, ".self_attn"), index));
  // Where there is one norm between the blocks, its name says behind attention, and it is the next
  // block's; with sandwich norms, it is behind.
  if (config.sandwich_norms) {
    ASSIGN_OR_RETURN(layer.attention_output_norm, norm(".post_attention_layernorm"));
    ASSIGN_OR_RETURN(layer.feed_forward_norm, norm(".pre_feedforward_layernorm"));
    ASSIGN_OR_RETURN(layer.feed_forward_output_norm, norm(".post_feedforward_layernorm"));
  } else {
    ASSIGN_OR_RETURN(layer.feed_forward_norm, norm(".post_attention_layernorm"));
  }
  ASSIGN_OR_RETURN(layer.feed_forward, LoadFeedForward(rank, config, name));
  return layer;
}

class Llama final : public Model {
 public:
  Llama(const ModelConfig& config, const RankContext& rank)
      : ops_(*rank.ops), hidden_size_(config.hidden_size) {}

  absl::Status Load(const ModelConfig& config, const RankContext& rank) {
    const std::string embedding = "model.embed_tokens";
    if (rank.shard.first_stage) {
      ASSIGN_OR_RETURN(embedding_, VocabParallelEmbedding::Load(rank, config, embedding));
    }
    for (int64_t i = rank.shard.layers.begin; i < rank.shard.layers.end; ++i) {
      ASSIGN_OR_RETURN(DecoderLayer layer, LoadLayer(rank, config, i));
      layers_.push_back(std::move(layer));
    }
    if (rank.shard.last_stage) {
      ASSIGN_OR_RETURN(final_norm_, RmsNorm::Load(rank, config, "model.norm"));
      ASSIGN_OR_RETURN(
          head_, VocabParallelHead::Load(rank, config.tie_word_embeddings ? embedding : "lm_head",
                                         config.vocab_size));
    }
    const bool read_as_head = config.tie_word_embeddings && rank.shard.last_stage;
    if (embedding_ && !read_as_head) lookup_bytes_ = embedding_->bytes();
    return absl::OkStatus();
  }

  absl::Status Embed(const StepBatch& batch, std::span<float> hidden) override {
    return embedding_->Forward(batch, hidden);
  }

  absl::Status Layers(const StepBatch& batch, const KvCache& cache,
                      std::span<float> hidden) override {
    if (layers_.empty()) return absl::OkStatus();
    const int64_t size = static_cast<int64_t>(hidden.size());
    ASSIGN_OR_RETURN(const std::span<float> normed, normed_.Resize(ops_.memory(), size));
    ASSIGN_OR_RETURN(const std::span<float> delta, delta_.Resize(ops_.memory(), size));
    Ops::Normed input = layers_.front().input_norm.Of(hidden, {}, {}, normed);
    for (size_t i = 0; i < layers_.size(); ++i) {
      DecoderLayer& layer = layers_[i];
      RETURN_IF_ERROR(
          layer.attention.Forward(batch, cache.layer(static_cast<int64_t>(i)), input, delta));
      if (layer.attention_output_norm) layer.attention_output_norm->Forward(delta);
      input = layer.feed_forward_norm.Of(hidden, delta, layer.attention.bias(), normed);
      RETURN_IF_ERROR(std::visit([&](auto& block) { return block.Forward(batch, input, delta); },
                                 layer.feed_forward));
      if (layer.feed_forward_output_norm) layer.feed_forward_output_norm->Forward(delta);
      const std::span<const float> bias =
          std::visit([](auto& block) { return block.bias(); }, layer.feed_forward);
      if (i + 1 < layers_.size()) {
        input = layers_[i + 1].input_norm.Of(hidden, delta, bias, normed);
      } else {
        ops_.AddResidual(hidden, delta, bias);
      }
    }
    return absl::OkStatus();
  }

  absl::Status Logits(std::span<const int32_t> tokens, std::span<const float> hidden,
                      std::span<float> logits) override {
    const int64_t rows = static_cast<int64_t>(tokens.size());
    ASSIGN_OR_RETURN(const std::span<float> last,
                     normed_.Resize(ops_.memory(), rows * hidden_size_));
    ops_.GatherRows(hidden, hidden_size_, tokens, last);
    return head_->Forward(final_norm_->Of(last, {}, {}, last), rows, logits);
  }

  int64_t lookup_bytes() const override { return lookup_bytes_; }

 private:
  Ops& ops_;
  const int64_t hidden_size_;
  std::optional<VocabParallelEmbedding> embedding_;
  std::vector<DecoderLayer> layers_;
  std::optional<RmsNorm> final_norm_;
  std::optional<VocabParallelHead> head_;
  DeviceVector<float> normed_, delta_;
  int64_t lookup_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeLlama(const ModelConfig& config,
                                                 const RankContext& rank) {
  auto model = std::make_unique<Llama>(config, rank);
  RETURN_IF_ERROR(model->Load(config, rank));
  return model;
}

}  // namespace trireme
