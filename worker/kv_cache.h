#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "parallel/model_config.h"
#include "parallel/shard.h"

namespace trireme {

// The bytes of the paged KV cache of one rank: for each of its layers a pool of pages. Which page
// belongs to which sequence is the coordinator's business (BlockManager).
class KvCache {
 public:
  // Bytes of one page over all layers of the rank.
  static int64_t BlockBytes(const ModelConfig& config, const ModelShard& shard, int64_t block_size,
                            KvDType dtype);

  // num_blocks counts every page, those to swap to as well. Does not own `memory`.
  static absl::StatusOr<KvCache> Allocate(const ModelConfig& config, const ModelShard& shard,
                                          int64_t num_blocks, int64_t block_size, KvDType dtype,
                                          Memory& memory);

  // `layer` counts from the rank's first layer.
  KvLayer layer(int64_t layer) const;
  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_size() const { return layer_.block_size; }
  KvDType dtype() const { return layer_.dtype; }

  // Copies page `from` over page `to` in every layer: keys, values, scales.
  absl::Status CopyBlock(int64_t from, int64_t to);

 private:
  Memory* memory_ = nullptr;
  Buffer pages_;  // of each layer the pages of keys, then those of values
  int64_t num_layers_ = 0;
  int64_t num_blocks_ = 0;
  KvLayer layer_;  // the shape, without data
};

}  // namespace trireme
