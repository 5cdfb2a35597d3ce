#pragma once

#include <cstdint>
#include <vector>

#include "trireme/v1/worker.pb.h"

namespace trireme {

enum class SequenceState { kWaiting, kRunning };  // one that has ended is no longer kept

// One continuation of a prompt, as the scheduler sees it. Plain data.
struct Sequence {
  uint64_t id = 0;  // unique over the life of the coordinator; smaller is older
  SequenceState state = SequenceState::kWaiting;
  std::vector<int32_t> tokens;  // prompt, then what was sampled
  uint32_t num_prompt = 0;      // how many of `tokens` are the prompt
  uint32_t num_computed = 0;    // tokens whose keys and values are planned into the cache
  std::vector<uint32_t> block_table;
  v1::StepSampling sampling;
  uint32_t max_tokens = 0;              // sampled tokens at most
  std::vector<int32_t> stop_token_ids;  // any of them ends the sequence
  uint32_t gangs_lost = 0;              // how often its gang died under it

  uint32_t num_sampled() const { return static_cast<uint32_t>(tokens.size()) - num_prompt; }
  // Tokens the sequence can come to, which its blocks are reserved for.
  uint64_t tokens_max() const { return uint64_t{num_prompt} + max_tokens; }
  // Known tokens that are not yet computed: 1 while decoding, more during prefill.
  uint32_t num_to_compute() const { return static_cast<uint32_t>(tokens.size()) - num_computed; }
};

}  // namespace trireme
