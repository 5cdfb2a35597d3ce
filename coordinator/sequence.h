#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/prefix_hash.h"
#include "trireme/v1/inference.pb.h"
#include "trireme/v1/worker.pb.h"

namespace trireme {

struct Tenant;

// One that has ended is no longer kept.
enum class SequenceState {
  kHeld,     // may not run yet: see Sequence::Runnable
  kWaiting,  // in the queue
  kRunning,  // the workers know it, and it has blocks
};

// One continuation of a prompt, as the scheduler sees it. Plain data; the upper part is the
// caller's to fill, the lower the scheduler's.
struct Sequence {
  uint64_t id = 0;         // unique over the life of the coordinator; smaller is older
  uint64_t leader_id = 0;  // the first of its request, whose prompt it shares; its own id if that
  v1::Priority priority = v1::PRIORITY_NORMAL;
  std::string tenant_name;
  BlockHash cache_root;         // namespace of the prefix cache
  std::vector<int32_t> tokens;  // prompt, then what was sampled and is known
  v1::StepSampling sampling;
  uint32_t max_tokens = 0;              // sampled tokens at most
  std::vector<int32_t> stop_token_ids;  // any of them ends the sequence

  SequenceState state = SequenceState::kHeld;
  Tenant* tenant = nullptr;
  bool paused = false;         // its client does not read
  bool follows = false;        // waits for its leader's prompt to be computed
  bool stands_back = false;    // a gang died under it alone: the others go first
  uint32_t num_prompt = 0;     // how many of `tokens` are the prompt
  uint32_t num_pending = 0;    // sampled by steps whose results are not back
  uint32_t num_computed = 0;   // tokens whose keys and values are planned into the cache
  uint32_t num_prefilled = 0;  // the most tokens ever computed: beyond, work is new and is charged
  uint32_t num_cached = 0;     // prompt tokens that were found in the prefix cache, first time
  uint32_t num_published = 0;  // blocks of the table whose content is published
  uint32_t prompt_logprobs = 0;     // the last position that has been delivered
  uint32_t gangs_lost = 0;          // how often its gang died under it since its last token
  uint32_t gangs_lost_without = 0;  // and how often of something else
  uint64_t last_step = 0;           // the last plan it is in
  uint32_t last_count = 0;          // tokens of it in that plan
  uint64_t queued_step = 0;         // when it last became a waiting one, in steps
  std::vector<uint32_t> block_table;
  std::vector<BlockHash> block_hashes;  // of full blocks of known tokens, as far as needed
  std::vector<uint32_t>
      swap_table;  // blocks of the swap pool that keep the first num_swapped tokens
  uint32_t num_swapped = 0;

  uint32_t num_sampled() const { return static_cast<uint32_t>(tokens.size()) - num_prompt; }
  // Tokens the sequence can come to.
  uint64_t tokens_max() const { return uint64_t{num_prompt} + max_tokens; }
  // Tokens there are, known here or only to the workers.
  uint32_t num_tokens() const { return static_cast<uint32_t>(tokens.size()) + num_pending; }
  // Of these, not yet computed: 1 while decoding, more during prefill, 0 when all has been asked
  // for.
  uint32_t num_to_compute() const {
    const uint32_t left = num_tokens() - num_computed;
    return left == 1 && num_sampled() + num_pending >= max_tokens ? 0 : left;
  }
  // Whether it may be queued. One that was preempted must first know its last tokens again.
  bool Runnable() const { return !paused && !follows && !stands_back && num_pending == 0; }
};

}  // namespace trireme
