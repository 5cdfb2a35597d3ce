#include "worker/kv_cache.h"

#include <sys/mman.h>

#include "base/check.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

// The first block touches the pools of keys and values of every layer: with huge pages, 2 MiB of
// each to clear before the first token. In pools that are smaller than this, that is much of what
// is used.
constexpr int64_t kHugePagesFrom = int64_t{64} << 20;

}  // namespace

int64_t KvCache::BlockBytes(const ModelConfig& config, const ModelShard& shard, int64_t block_size,
                            KvDType dtype) {
  return shard.layers.size() * 2 * shard.kv_heads.size() *
         KvHeadBytes(dtype, block_size, config.head_dim);
}

absl::StatusOr<KvCache> KvCache::Allocate(const ModelConfig& config, const ModelShard& shard,
                                          int64_t num_blocks, int64_t block_size, KvDType dtype,
                                          Memory& memory) {
  KvCache cache;
  cache.memory_ = &memory;
  cache.num_layers_ = shard.layers.size();
  cache.num_blocks_ = num_blocks;
  cache.layer_.dtype = dtype;
  cache.layer_.num_kv_heads = shard.kv_heads.size();
  cache.layer_.block_size = block_size;
  cache.layer_.head_dim = config.head_dim;
  const int64_t bytes = num_blocks * BlockBytes(config, shard, block_size, dtype);
  ASSIGN_OR_RETURN(cache.pages_, memory.Allocate(static_cast<size_t>(bytes)));
  if (memory.on_host() && num_blocks * cache.layer_.page_bytes() < kHugePagesFrom) {
    madvise(cache.pages_.data(), cache.pages_.size(), MADV_NOHUGEPAGE);
  }
  return cache;
}

KvLayer KvCache::layer(int64_t layer) const {
  const int64_t pool = num_blocks_ * layer_.page_bytes();
  KvLayer result = layer_;
  result.k = pages_.data() + layer * 2 * pool;
  result.v = result.k + pool;
  return result;
}

absl::Status KvCache::CopyBlock(int64_t from, int64_t to) {
  CHECK(from >= 0 && from < num_blocks_ && to >= 0 && to < num_blocks_);
  if (from == to) return absl::OkStatus();
  const int64_t bytes = layer_.page_bytes();
  for (int64_t i = 0; i < num_layers_; ++i) {
    const KvLayer pages = layer(i);
    for (std::byte* pool : {pages.k, pages.v}) {
      RETURN_IF_ERROR(
          memory_->Copy(pool + to * bytes, pool + from * bytes, static_cast<size_t>(bytes)));
    }
  }
  return absl::OkStatus();
}

}  // namespace trireme
