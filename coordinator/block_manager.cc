#include "coordinator/block_manager.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace trireme {

BlockManager::BlockManager(uint32_t num_blocks, uint32_t block_size)
    : block_size_(block_size), taken_(num_blocks, false) {
  CHECK(block_size > 0);
  free_.reserve(num_blocks);
  for (uint32_t block = num_blocks; block > 0; --block) free_.push_back(block - 1);
}

uint64_t BlockManager::BlocksFor(uint64_t tokens) const {
  return (tokens + block_size_ - 1) / block_size_;
}

std::optional<std::vector<uint32_t>> BlockManager::Allocate(uint64_t count) {
  if (count > free_.size()) return std::nullopt;
  std::vector<uint32_t> blocks(free_.rbegin(), free_.rbegin() + static_cast<ptrdiff_t>(count));
  free_.resize(free_.size() - count);
  for (const uint32_t block : blocks) taken_[block] = true;
  return blocks;
}

void BlockManager::Free(std::span<const uint32_t> blocks) {
  for (const uint32_t block : blocks) {
    CHECK(block < taken_.size() && taken_[block]);
    taken_[block] = false;
    free_.push_back(block);
  }
}

absl::Status BlockManager::CheckIntegrity() const {
  std::vector<bool> seen(taken_.size(), false);
  for (const uint32_t block : free_) {
    if (block >= taken_.size() || taken_[block] || seen[block]) {
      return absl::InternalError(absl::StrCat("block ", block, " is on the free list wrongly"));
    }
    seen[block] = true;
  }
  for (size_t block = 0; block < taken_.size(); ++block) {
    if (!taken_[block] && !seen[block]) {
      return absl::InternalError(absl::StrCat("block ", block, " is lost"));
    }
  }
  return absl::OkStatus();
}

}  // namespace trireme
