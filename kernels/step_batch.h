#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trireme {

// Where one token of a step stands: its position in its sequence, and that sequence's block table
// (page numbers; it covers at least position + 1 tokens and outlives the step).
struct TokenPlace {
  int64_t position = 0;  // kPadding: of no sequence
  std::span<const int32_t> block_table;

  static constexpr int64_t kPadding = -1;
};

// Cosines and sines, each [tokens, head_dim / 2].
struct RopeAngles {
  std::vector<float> cos;
  std::vector<float> sin;
};

// The tokens of one step, the same on every rank; on the host. Those of a sequence follow each
// other, by position. Behind the others may be padding, as Ops::PaddedTokens asks for: it is in no
// sequence, and nothing of it reaches the KV cache.
struct StepBatch {
  // One per token; -1 - i: the i-th token that the step before has sampled. Behind the first stage
  // nobody asks.
  std::vector<int32_t> ids;
  std::vector<TokenPlace> places;  // one per token
  RopeAngles rope;
  RopeAngles local_rope;             // of windowed layers, if the model has a base of their own
  std::vector<int32_t> wanted;       // tokens whose logits are wanted, by index
  std::span<const int32_t> sampled;  // what negative ids mean, in the memory of the Ops

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
};

}  // namespace trireme
