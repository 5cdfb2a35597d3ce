#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "coordinator/prefix_hash.h"

namespace trireme {

// The page numbers of the gang's KV cache: who holds which, and what is in them. Every rank holds a
// page of each number, so one book serves all of them. Not thread safe.
//
// A block has as many references as block tables name it. One without is free, but if its content
// was published it can still be found and shared again until it is needed for something else: the
// least recently used goes first (paged attention and its prefix cache: Kwon et al. 2023).
class BlockManager {
 public:
  BlockManager() = default;  // an empty pool
  BlockManager(uint32_t num_blocks, uint32_t block_size);

  uint32_t num_blocks() const { return static_cast<uint32_t>(blocks_.size()); }
  uint32_t block_size() const { return block_size_; }
  uint32_t num_free() const { return num_free_; }      // those with published content included
  uint32_t num_cached() const { return num_cached_; }  // free ones with published content

  // Blocks that hold `tokens` tokens.
  uint64_t BlocksFor(uint64_t tokens) const;

  // A free block, with one reference; what it held is forgotten. Nothing if none is free.
  std::optional<uint32_t> Allocate();

  // One more reference to a block, free or not.
  void Share(uint32_t block);

  // One reference less for each block of a table. Its last blocks will be reused first.
  void Release(std::span<const uint32_t> table);

  // The block with this content, if there is one. Adds no reference.
  std::optional<uint32_t> Find(const BlockHash& hash) const;

  // Says what a held block contains; it must not change any more. No effect if another block with
  // the same content is known.
  void Publish(uint32_t block, const BlockHash& hash);

  uint32_t references(uint32_t block) const { return blocks_[block].references; }

  // Whether lists, counts and hashes agree. Internal error otherwise; for tests.
  absl::Status CheckIntegrity() const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Block {
    uint32_t references = 0;
    uint32_t previous = kNone;  // in the list of free blocks
    uint32_t next = kNone;
    bool published = false;
    BlockHash hash;
  };

  // Into the list of free blocks between two neighbours, and out of it; kNone is an end.
  void Link(uint32_t block, uint32_t previous, uint32_t next);
  void Unlink(uint32_t block);

  uint32_t block_size_ = 1;
  std::vector<Block> blocks_;
  uint32_t first_ = kNone;  // free blocks: the next to be reused
  uint32_t last_ = kNone;   // the most recently used
  uint32_t num_free_ = 0;
  uint32_t num_cached_ = 0;
  absl::flat_hash_map<BlockHash, uint32_t> published_;
};

}  // namespace trireme
