#include "coordinator/block_manager.h"

#include <ranges>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace trireme {

BlockManager::BlockManager(uint32_t num_blocks, uint32_t block_size)
    : block_size_(block_size), blocks_(num_blocks) {
  CHECK(block_size > 0);
  for (uint32_t block = 0; block < num_blocks; ++block) Link(block, last_, kNone);
}

uint64_t BlockManager::BlocksFor(uint64_t tokens) const {
  return (tokens + block_size_ - 1) / block_size_;
}

std::optional<uint32_t> BlockManager::Allocate() {
  if (first_ == kNone) return std::nullopt;
  const uint32_t number = first_;
  Unlink(number);
  Block& block = blocks_[number];
  block.references = 1;
  if (block.published) {
    published_.erase(block.hash);
    block.published = false;
  }
  return number;
}

void BlockManager::Share(uint32_t block) {
  if (blocks_[block].references++ == 0) Unlink(block);
}

void BlockManager::Release(std::span<const uint32_t> table) {
  // A prefix is of no use without what comes before it, so the last blocks are given up first.
  for (const uint32_t number : std::views::reverse(table)) {
    Block& block = blocks_[number];
    CHECK(block.references > 0);
    if (--block.references > 0) continue;
    if (block.published) {
      Link(number, last_, kNone);
    } else {
      Link(number, kNone, first_);
    }
  }
}

std::optional<uint32_t> BlockManager::Find(const BlockHash& hash) const {
  const auto found = published_.find(hash);
  if (found == published_.end()) return std::nullopt;
  return found->second;
}

void BlockManager::Publish(uint32_t block, const BlockHash& hash) {
  CHECK(blocks_[block].references > 0);
  if (blocks_[block].published || !published_.try_emplace(hash, block).second) return;
  blocks_[block].published = true;
  blocks_[block].hash = hash;
}

void BlockManager::Link(uint32_t number, uint32_t previous, uint32_t next) {
  Block& block = blocks_[number];
  block.previous = previous;
  block.next = next;
  (previous == kNone ? first_ : blocks_[previous].next) = number;
  (next == kNone ? last_ : blocks_[next].previous) = number;
  ++num_free_;
  num_cached_ += block.published ? 1 : 0;
}

void BlockManager::Unlink(uint32_t number) {
  Block& block = blocks_[number];
  (block.previous == kNone ? first_ : blocks_[block.previous].next) = block.next;
  (block.next == kNone ? last_ : blocks_[block.next].previous) = block.previous;
  block.previous = block.next = kNone;
  --num_free_;
  num_cached_ -= block.published ? 1 : 0;
}

absl::Status BlockManager::CheckIntegrity() const {
  std::vector<bool> listed(blocks_.size(), false);
  uint32_t count = 0;
  uint32_t cached = 0;
  for (uint32_t number = first_; number != kNone; number = blocks_[number].next) {
    if (listed[number] || blocks_[number].references != 0) {
      return absl::InternalError(absl::StrCat("block ", number, " is on the free list wrongly"));
    }
    listed[number] = true;
    ++count;
    cached += blocks_[number].published ? 1 : 0;
  }
  size_t published = 0;
  for (uint32_t number = 0; number < blocks_.size(); ++number) {
    const Block& block = blocks_[number];
    if (block.references == 0 && !listed[number]) {
      return absl::InternalError(absl::StrCat("block ", number, " is lost"));
    }
    if (!block.published) continue;
    ++published;
    const auto found = published_.find(block.hash);
    if (found == published_.end() || found->second != number) {
      return absl::InternalError(absl::StrCat("block ", number, " cannot be found by its content"));
    }
  }
  if (count != num_free_ || cached != num_cached_ || published != published_.size()) {
    return absl::InternalError("the counts of free or published blocks are wrong");
  }
  return absl::OkStatus();
}

}  // namespace trireme
