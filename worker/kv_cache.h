#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/kv_layer.h"
#include "kernels/ops.h"
#include "parallel/model_config.h"
#include "parallel/shard.h"
#include "worker/weights.h"

namespace trireme {

// The bytes of the paged KV cache of one rank: for each of its layers a pool of pages. Which page
// belongs to which sequence is the coordinator's business (BlockManager).
class KvCache {
 public:
  // Bytes of one page over all layers of the rank.
  static int64_t BlockBytes(const ModelConfig& config, const ModelShard& shard, int64_t block_size,
                            KvDType dtype);

  static absl::StatusOr<KvCache> Allocate(const ModelConfig& config, const ModelShard& shard,
                                          int64_t num_blocks, int64_t block_size, KvDType dtype);

  // Copies a page in every layer.
  void CopyBlock(int64_t from, int64_t to);

  // `layer` counts from the rank's first layer.
  KvLayer layer(int64_t layer) const;
  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_size() const { return block_size_; }

 private:
  PageMemory memory_;
  int64_t num_blocks_ = 0;
  int64_t block_size_ = 0;
  int64_t num_kv_heads_ = 0;
  int64_t head_dim_ = 0;
};

}  // namespace trireme
