#pragma once

#include <cstdint>

namespace trireme::cuda {

// Steps of one token a sequence are recorded as graphs for a few sizes, and padded to the next one.
// Pure functions.

// Most tokens of a step that is recorded. Larger ones compute for so long that launching their
// kernels one by one costs nothing.
inline constexpr int64_t kGraphTokensMax = 256;

// The size for a number of tokens: 1, 2, 4, then multiples of 8, from 64 on of 16, from 128 on of
// 32; `tokens` itself above kGraphTokensMax. At most half of a step is padding, an eighth or so of
// a large one.
int64_t GraphTokens(int64_t tokens);

// The columns of block tables for sequences of so many blocks at most: a power of two, at least 16.
// A graph's grids follow from it, so that a short context does not launch blocks for the longest.
int64_t GraphBlocks(int64_t blocks);

}  // namespace trireme::cuda
