#include "worker/kv_cache.h"

#include <cstring>

#include "base/status_macros.h"

namespace trireme {

int64_t KvCache::BlockBytes(const ModelConfig& config, const ModelShard& shard, int64_t block_size,
                            KvDType) {
  return shard.layers.size() * 2 * shard.kv_heads.size() * block_size * config.head_dim *
         static_cast<int64_t>(sizeof(float));
}

absl::StatusOr<KvCache> KvCache::Allocate(const ModelConfig& config, const ModelShard& shard,
                                          int64_t num_blocks, int64_t block_size, KvDType dtype) {
  KvCache cache;
  cache.num_blocks_ = num_blocks;
  cache.block_size_ = block_size;
  cache.num_kv_heads_ = shard.kv_heads.size();
  cache.head_dim_ = config.head_dim;
  const int64_t bytes = num_blocks * BlockBytes(config, shard, block_size, dtype);
  ASSIGN_OR_RETURN(cache.memory_, PageMemory::Allocate(static_cast<size_t>(bytes)));
  return cache;
}

void KvCache::CopyBlock(int64_t from, int64_t to) {
  const size_t page = static_cast<size_t>(num_kv_heads_ * block_size_ * head_dim_);
  float* base = reinterpret_cast<float*>(memory_.data());
  const size_t pages = memory_.size() / (page * sizeof(float));
  for (size_t first = 0; first < pages; first += static_cast<size_t>(num_blocks_)) {
    std::memcpy(base + (first + static_cast<size_t>(to)) * page,
                base + (first + static_cast<size_t>(from)) * page, page * sizeof(float));
  }
}

KvLayer KvCache::layer(int64_t layer) const {
  const int64_t pool = num_blocks_ * num_kv_heads_ * block_size_ * head_dim_;
  float* base = reinterpret_cast<float*>(memory_.data()) + layer * 2 * pool;
  return {.k = base,
          .v = base + pool,
          .num_kv_heads = num_kv_heads_,
          .block_size = block_size_,
          .head_dim = head_dim_};
}

}  // namespace trireme
