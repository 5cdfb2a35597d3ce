// The paged cache's layout: what a page takes, and that copying one copies all of it and nothing
// else.

#include "worker/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace trireme {
namespace {

constexpr int64_t kBlocks = 5, kBlockSize = 16;

class KvCacheTest : public testing::TestWithParam<KvDType> {
 protected:
  KvCacheTest() {
    config_.head_dim = 24;
    shard_.layers = {.begin = 4, .end = 7};
    shard_.kv_heads = {.begin = 2, .end = 4};
  }

  ModelConfig config_;
  ModelShard shard_;
};

TEST_P(KvCacheTest, BlockBytesCountElementsAndScales) {
  const int64_t rows = 3 * 2 * 2 * kBlockSize;  // layers, keys and values, heads, tokens
  const int64_t row = GetParam() == KvDType::kF32 ? 96 : GetParam() == KvDType::kBF16 ? 48 : 28;
  EXPECT_EQ(KvCache::BlockBytes(config_, shard_, kBlockSize, GetParam()), rows * row);
}

TEST_P(KvCacheTest, CopyBlockCopiesOnePageOfEveryLayer) {
  auto cache = KvCache::Allocate(config_, shard_, kBlocks, kBlockSize, GetParam(), HostMemory());
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(cache->num_blocks(), kBlocks);
  EXPECT_EQ(cache->block_size(), kBlockSize);
  EXPECT_EQ(cache->dtype(), GetParam());
  const int64_t page_bytes = cache->layer(0).page_bytes();
  // Every page of keys and values gets bytes of its own, by which it is known.
  const auto for_pages = [&](auto f) {
    uint8_t mark = 0;
    for (int64_t i = 0; i < shard_.layers.size(); ++i) {
      const KvLayer layer = cache->layer(i);
      for (std::byte* pool : {layer.k, layer.v}) {
        for (int64_t page = 0; page < kBlocks; ++page) {
          f(pool + page * page_bytes, page, mark++);
        }
      }
    }
  };
  for_pages([&](std::byte* bytes, int64_t, uint8_t mark) {
    std::memset(bytes, mark, static_cast<size_t>(page_bytes));
  });
  ASSERT_TRUE(cache->CopyBlock(1, 4).ok());
  ASSERT_TRUE(cache->CopyBlock(2, 2).ok());
  for_pages([&](std::byte* bytes, int64_t page, uint8_t mark) {
    const auto want = static_cast<std::byte>(page == 4 ? mark - 3 : mark);
    for (int64_t i = 0; i < page_bytes; ++i) ASSERT_EQ(bytes[i], want) << "page " << page;
  });
}

INSTANTIATE_TEST_SUITE_P(Types, KvCacheTest,
                         testing::Values(KvDType::kF32, KvDType::kBF16, KvDType::kInt8),
                         [](const auto& info) { return std::string(KvDTypeName(info.param)); });

}  // namespace
}  // namespace trireme
