#pragma once

#include <cstdint>

#include "tests/simulation/random.h"

namespace trireme::simulation {

// Stands for the keys and values of a token: names it, all tokens before it, and the namespace they
// are in. What depends on a text in a model depends on its history here.
using History = uint64_t;

inline History Begin(uint64_t name_space) { return Mix(name_space + 0x5eed); }
inline History Extend(History history, int32_t token) {
  return Mix(history * 31 + static_cast<uint64_t>(token) + 1);
}

// The token that the model samples after a text.
inline int32_t NextToken(History history, uint64_t seed, uint32_t vocab_size) {
  return static_cast<int32_t>(Mix(history ^ Mix(seed)) % vocab_size);
}

// Of the last token of a text. A number that tells texts apart.
inline float PromptLogprobOf(History history) { return -static_cast<float>(history >> 40); }

}  // namespace trireme::simulation
