#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/layout.h"
#include "parallel/model_config.h"

namespace trireme {

// What one rank holds of the model's dimensions.
struct ModelShard {
  IndexRange layers;        // of num_layers
  IndexRange heads;         // query heads, of num_heads
  IndexRange kv_heads;      // of num_kv_heads; several ranks hold the same one if tp > num_kv_heads
  IndexRange intermediate;  // columns of the MLP or of each expert, of intermediate_size
  IndexRange vocab;         // rows of embedding and lm_head; the last ranks may hold fewer or none
  bool first_stage = false;  // holds the embedding
  bool last_stage = false;   // holds the final norm and lm_head
};

// The layout must be legal (CheckLayout) and `coord` inside it.
ModelShard ComputeShard(const ModelConfig& config, const ParallelLayout& layout,
                        const RankCoord& coord);

// The part of one checkpoint tensor that a rank reads: rows x cols of a [full_rows, full_cols]
// matrix. A vector has full_rows == 1 and is sliced along cols.
struct TensorSlice {
  std::string name;  // Hugging Face name, for example "model.layers.3.mlp.down_proj.weight"
  int64_t full_rows = 0;
  int64_t full_cols = 0;
  IndexRange rows;
  IndexRange cols;
  bool is_vector = false;
  int64_t elements() const { return rows.size() * cols.size(); }
};

// Every slice that a rank reads, each once, in file-independent order (embedding, layers, norm,
// head). With tied embeddings the head's slice carries the embedding's name.
std::vector<TensorSlice> ShardTensors(const ModelConfig& config, const ModelShard& shard);

}  // namespace trireme
