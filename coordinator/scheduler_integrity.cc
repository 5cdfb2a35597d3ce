// What must hold between any two calls of the scheduler; apart from it, as only tests ask.

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/scheduler.h"

namespace trireme {
namespace {

absl::Status CheckReferences(const BlockManager& blocks,
                             const std::map<uint32_t, uint32_t>& references, const char* pool) {
  RETURN_IF_ERROR(blocks.CheckIntegrity());
  for (uint32_t block = 0; block < blocks.num_blocks(); ++block) {
    const auto found = references.find(block);
    const uint32_t expected = found == references.end() ? 0 : found->second;
    if (blocks.references(block) != expected) {
      return absl::InternalError(absl::StrCat(pool, " block ", block, " has ",
                                              blocks.references(block), " references, ", expected,
                                              " tables name it"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Scheduler::CheckSequence(const Sequence& sequence) const {
  const auto wrong = [&](const char* what) {
    return absl::InternalError(absl::StrCat("sequence ", sequence.id, " ", what));
  };
  const bool running = sequence.state == SequenceState::kRunning;
  const auto listed = std::count(running_.begin(), running_.end(), &sequence);
  if (listed != (running ? 1 : 0)) return wrong("is wrongly in, or not in, the running list");
  if (sequence.state == SequenceState::kHeld && sequence.Runnable()) return wrong("is forgotten");
  if (sequence.state == SequenceState::kWaiting && !sequence.Runnable()) {
    return wrong("waits, but may not run");
  }
  if (!running && !sequence.block_table.empty()) return wrong("holds blocks without running");
  if (running && !sequence.swap_table.empty()) return wrong("runs, but is swapped out");
  if (sequence.num_computed > sequence.num_tokens()) return wrong("has computed what is not there");
  if (sequence.num_computed > sequence.block_table.size() * uint64_t{blocks_.block_size()}) {
    return wrong("has computed more than its blocks hold");
  }
  if (sequence.num_sampled() + sequence.num_pending > sequence.max_tokens) {
    return wrong("has more tokens than it may");
  }
  return absl::OkStatus();
}

absl::Status Scheduler::CheckIntegrity() const {
  std::map<uint32_t, uint32_t> references;
  std::map<uint32_t, uint32_t> swap_references;
  size_t waiting = 0;
  size_t paused = 0;
  for (const auto& [id, sequence] : sequences_) {
    RETURN_IF_ERROR(CheckSequence(*sequence));
    for (const uint32_t block : sequence->block_table) ++references[block];
    for (const uint32_t block : sequence->swap_table) ++swap_references[block];
    waiting += sequence->state == SequenceState::kWaiting ? 1 : 0;
    paused += sequence->paused ? 1 : 0;
  }
  RETURN_IF_ERROR(CheckReferences(blocks_, references, "KV"));
  RETURN_IF_ERROR(CheckReferences(swap_, swap_references, "swap"));
  RETURN_IF_ERROR(queue_.CheckIntegrity());
  if (waiting != queue_.size()) return absl::InternalError("a sequence is lost to the queue");
  if (paused != num_paused_) return absl::InternalError("the count of paused sequences is wrong");
  return absl::OkStatus();
}

}  // namespace trireme
