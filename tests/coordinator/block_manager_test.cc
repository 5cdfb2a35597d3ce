#include "coordinator/block_manager.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

namespace trireme {
namespace {

BlockHash Hash(uint64_t content) { return {.high = content, .low = 1}; }

void ExpectSound(const BlockManager& blocks) {
  const absl::Status status = blocks.CheckIntegrity();
  EXPECT_TRUE(status.ok()) << std::string(status.message());
}

TEST(BlockManagerTest, RoundsUp) {
  const BlockManager blocks(4, 16);
  EXPECT_EQ(blocks.BlocksFor(0), 0u);
  EXPECT_EQ(blocks.BlocksFor(1), 1u);
  EXPECT_EQ(blocks.BlocksFor(16), 1u);
  EXPECT_EQ(blocks.BlocksFor(17), 2u);
}

TEST(BlockManagerTest, GivesEveryBlockOnce) {
  BlockManager blocks(3, 16);
  std::vector<uint32_t> table;
  while (const std::optional<uint32_t> block = blocks.Allocate()) table.push_back(*block);
  EXPECT_EQ(table, (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(blocks.num_free(), 0u);
  blocks.Release(table);
  EXPECT_EQ(blocks.num_free(), 3u);
  ExpectSound(blocks);
}

TEST(BlockManagerTest, EmptyPoolHasNothing) {
  BlockManager blocks;
  EXPECT_FALSE(blocks.Allocate().has_value());
  EXPECT_EQ(blocks.num_free(), 0u);
  ExpectSound(blocks);
}

TEST(BlockManagerTest, IsFreeWhenTheLastHolderHasGone) {
  BlockManager blocks(2, 16);
  const std::array table = {*blocks.Allocate()};
  blocks.Share(table[0]);
  EXPECT_EQ(blocks.references(table[0]), 2u);
  blocks.Release(table);
  EXPECT_EQ(blocks.num_free(), 1u);
  blocks.Release(table);
  EXPECT_EQ(blocks.num_free(), 2u);
  ExpectSound(blocks);
}

TEST(BlockManagerTest, FreeBlockIsFoundAndSharedAgain) {
  BlockManager blocks(2, 16);
  const std::array table = {*blocks.Allocate()};
  blocks.Publish(table[0], Hash(1));
  blocks.Release(table);
  EXPECT_EQ(blocks.num_cached(), 1u);
  ASSERT_EQ(blocks.Find(Hash(1)), table[0]);
  blocks.Share(table[0]);
  EXPECT_EQ(blocks.num_free(), 1u);
  EXPECT_EQ(blocks.num_cached(), 0u);
  ExpectSound(blocks);
}

TEST(BlockManagerTest, ReuseForgetsTheContent) {
  BlockManager blocks(1, 16);
  const std::array table = {*blocks.Allocate()};
  blocks.Publish(table[0], Hash(1));
  blocks.Release(table);
  EXPECT_EQ(blocks.Allocate(), table[0]);
  EXPECT_FALSE(blocks.Find(Hash(1)).has_value());
  ExpectSound(blocks);
}

TEST(BlockManagerTest, SameContentIsPublishedOnce) {
  BlockManager blocks(2, 16);
  const uint32_t first = *blocks.Allocate();
  const uint32_t second = *blocks.Allocate();
  blocks.Publish(first, Hash(1));
  blocks.Publish(second, Hash(1));
  EXPECT_EQ(blocks.Find(Hash(1)), first);
  blocks.Release(std::array{second});
  EXPECT_EQ(blocks.num_cached(), 0u);
  EXPECT_EQ(blocks.Allocate(), second);
  EXPECT_EQ(blocks.Find(Hash(1)), first);
  ExpectSound(blocks);
}

TEST(BlockManagerTest, ReusesWhatIsOfNoUseFirstThenTheLeastRecentlyUsed) {
  BlockManager blocks(4, 16);
  std::vector<uint32_t> table;
  for (uint64_t i = 0; i < 4; ++i) table.push_back(*blocks.Allocate());
  for (uint64_t i = 0; i < 3; ++i) blocks.Publish(table[i], Hash(i));
  blocks.Release(std::array{table[2]});
  blocks.Release(std::array{table[0], table[1]});  // a prefix: its end is given up first
  blocks.Release(std::array{table[3]});            // nothing in it
  for (const size_t next : {3, 2, 1, 0}) EXPECT_EQ(blocks.Allocate(), table[next]);
}

}  // namespace
}  // namespace trireme
