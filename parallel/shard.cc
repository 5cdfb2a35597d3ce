#include "parallel/shard.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace trireme {
namespace {

// Part `index` of `parts` equal parts.
IndexRange Part(int64_t size, int parts, int index) {
  const int64_t each = size / parts;
  return {.begin = index * each, .end = (index + 1) * each};
}

IndexRange KvHeads(const ModelConfig& config, int tp, int tp_rank) {
  const int64_t kv_heads = config.num_kv_heads;
  if (kv_heads % tp == 0) return Part(kv_heads, tp, tp_rank);
  // More ranks than KV heads: neighbours hold the same one, the one that their query heads use.
  const int64_t head = tp_rank / (tp / kv_heads);
  return {.begin = head, .end = head + 1};
}

// Rounded up, so that any vocabulary can be split; the last ranks get what is left.
IndexRange VocabRows(int64_t vocab_size, int tp, int tp_rank) {
  const int64_t each = (vocab_size + tp - 1) / tp;
  return {.begin = std::min(tp_rank * each, vocab_size),
          .end = std::min((tp_rank + 1) * each, vocab_size)};
}

IndexRange Scaled(const IndexRange& range, int64_t factor) {
  return {.begin = range.begin * factor, .end = range.end * factor};
}

// Collects the slices of one rank.
class SliceList {
 public:
  void Matrix(std::string name, int64_t full_rows, int64_t full_cols, IndexRange rows,
              IndexRange cols) {
    slices_.push_back({.name = std::move(name),
                       .full_rows = full_rows,
                       .full_cols = full_cols,
                       .rows = rows,
                       .cols = cols,
                       .is_vector = false});
  }
  void Rows(std::string name, int64_t full_rows, int64_t cols, IndexRange rows) {
    Matrix(std::move(name), full_rows, cols, rows, {.begin = 0, .end = cols});
  }
  void Columns(std::string name, int64_t rows, int64_t full_cols, IndexRange cols) {
    Matrix(std::move(name), rows, full_cols, {.begin = 0, .end = rows}, cols);
  }
  void Vector(std::string name, int64_t full, IndexRange range) {
    Matrix(std::move(name), 1, full, {.begin = 0, .end = 1}, range);
    slices_.back().is_vector = true;
  }
  void WholeVector(std::string name, int64_t full) {
    Vector(std::move(name), full, {.begin = 0, .end = full});
  }

  std::vector<TensorSlice> Take() { return std::move(slices_); }

 private:
  std::vector<TensorSlice> slices_;
};

void AddAttention(const ModelConfig& config, const ModelShard& shard, const std::string& layer,
                  SliceList& list) {
  const std::string prefix = absl::StrCat(layer, "self_attn.");
  const int64_t hidden = config.hidden_size;
  const int64_t q_size = config.num_heads * config.head_dim;
  const int64_t kv_size = config.num_kv_heads * config.head_dim;
  const IndexRange q = Scaled(shard.heads, config.head_dim);
  const IndexRange kv = Scaled(shard.kv_heads, config.head_dim);
  list.Rows(prefix + "q_proj.weight", q_size, hidden, q);
  list.Rows(prefix + "k_proj.weight", kv_size, hidden, kv);
  list.Rows(prefix + "v_proj.weight", kv_size, hidden, kv);
  list.Columns(prefix + "o_proj.weight", hidden, q_size, q);
  if (config.qkv_bias) {
    list.Vector(prefix + "q_proj.bias", q_size, q);
    list.Vector(prefix + "k_proj.bias", kv_size, kv);
    list.Vector(prefix + "v_proj.bias", kv_size, kv);
  }
  if (config.o_bias) list.WholeVector(prefix + "o_proj.bias", hidden);
  if (config.qk_norm) {
    list.WholeVector(prefix + "q_norm.weight", config.head_dim);
    list.WholeVector(prefix + "k_norm.weight", config.head_dim);
  }
}

// Every rank routes, so each has the whole router, and its part of every expert.
void AddExperts(const ModelConfig& config, const ModelShard& shard, const std::string& layer,
                SliceList& list) {
  const std::string prefix = absl::StrCat(layer, "block_sparse_moe.");
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;
  list.Rows(prefix + "gate.weight", config.num_experts, hidden,
            {.begin = 0, .end = config.num_experts});
  for (int64_t e = 0; e < config.num_experts; ++e) {
    const std::string expert = absl::StrCat(prefix, "experts.", e);
    list.Rows(expert + ".w1.weight", intermediate, hidden, shard.intermediate);
    list.Rows(expert + ".w3.weight", intermediate, hidden, shard.intermediate);
    list.Columns(expert + ".w2.weight", hidden, intermediate, shard.intermediate);
  }
}

void AddMlp(const ModelConfig& config, const ModelShard& shard, const std::string& layer,
            SliceList& list) {
  if (config.num_experts > 0) return AddExperts(config, shard, layer, list);
  const std::string prefix = absl::StrCat(layer, "mlp.");
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;
  list.Rows(prefix + "gate_proj.weight", intermediate, hidden, shard.intermediate);
  list.Rows(prefix + "up_proj.weight", intermediate, hidden, shard.intermediate);
  list.Columns(prefix + "down_proj.weight", hidden, intermediate, shard.intermediate);
  if (config.mlp_bias) {
    list.Vector(prefix + "gate_proj.bias", intermediate, shard.intermediate);
    list.Vector(prefix + "up_proj.bias", intermediate, shard.intermediate);
    list.WholeVector(prefix + "down_proj.bias", hidden);
  }
}

}  // namespace

ModelShard ComputeShard(const ModelConfig& config, const ParallelLayout& layout,
                        const RankCoord& coord) {
  CHECK(CheckLayout(config, layout).ok());
  CHECK(coord.tp_rank >= 0 && coord.tp_rank < layout.tp);
  return {.layers = StageLayers(config, layout, coord.pp_rank),
          .heads = Part(config.num_heads, layout.tp, coord.tp_rank),
          .kv_heads = KvHeads(config, layout.tp, coord.tp_rank),
          .intermediate = Part(config.intermediate_size, layout.tp, coord.tp_rank),
          .vocab = VocabRows(config.vocab_size, layout.tp, coord.tp_rank),
          .first_stage = coord.pp_rank == 0,
          .last_stage = coord.pp_rank == layout.pp - 1};
}

std::vector<TensorSlice> ShardTensors(const ModelConfig& config, const ModelShard& shard) {
  const std::string embedding = "model.embed_tokens.weight";
  const int64_t hidden = config.hidden_size;
  SliceList list;
  if (shard.first_stage) list.Rows(embedding, config.vocab_size, hidden, shard.vocab);
  for (int64_t index = shard.layers.begin; index < shard.layers.end; ++index) {
    const std::string layer = absl::StrCat("model.layers.", index, ".");
    list.WholeVector(layer + "input_layernorm.weight", hidden);
    AddAttention(config, shard, layer, list);
    list.WholeVector(layer + "post_attention_layernorm.weight", hidden);
    if (config.sandwich_norms) {
      list.WholeVector(layer + "pre_feedforward_layernorm.weight", hidden);
      list.WholeVector(layer + "post_feedforward_layernorm.weight", hidden);
    }
    AddMlp(config, shard, layer, list);
  }
  if (shard.last_stage) {
    list.WholeVector("model.norm.weight", hidden);
    // A single stage with tied embeddings has read them above.
    if (!config.tie_word_embeddings) {
      list.Rows("lm_head.weight", config.vocab_size, hidden, shard.vocab);
    } else if (!shard.first_stage) {
      list.Rows(embedding, config.vocab_size, hidden, shard.vocab);
    }
  }
  return list.Take();
}

}  // namespace trireme
