#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"

namespace trireme {

// The page numbers of the gang's KV cache: which are free, which are taken. Every rank holds a page
// of each number, so one book serves all of them. Not thread safe.
class BlockManager {
 public:
  BlockManager() = default;  // an empty pool
  BlockManager(uint32_t num_blocks, uint32_t block_size);

  uint32_t num_blocks() const { return static_cast<uint32_t>(taken_.size()); }
  uint32_t num_free() const { return static_cast<uint32_t>(free_.size()); }
  uint32_t block_size() const { return block_size_; }

  // Blocks that hold `tokens` tokens.
  uint64_t BlocksFor(uint64_t tokens) const;

  // All `count` blocks or, if fewer are free, none.
  std::optional<std::vector<uint32_t>> Allocate(uint64_t count);

  // Returns blocks that Allocate gave; each must be taken.
  void Free(std::span<const uint32_t> blocks);

  // Whether every block is free once or taken, never both. Internal error otherwise; for tests.
  absl::Status CheckIntegrity() const;

 private:
  uint32_t block_size_ = 1;
  std::vector<uint32_t> free_;  // the next one to hand out is the last
  std::vector<bool> taken_;     // by block number
};

}  // namespace trireme
