#include "kernels/cuda/graph_buckets.h"

#include <algorithm>
#include <bit>

namespace trireme::cuda {

int64_t GraphTokens(int64_t tokens) {
  if (tokens > kGraphTokensMax) return tokens;
  if (tokens <= 4) return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens)));
  const int64_t step = tokens <= 64 ? 8 : tokens <= 128 ? 16 : 32;
  return (tokens + step - 1) / step * step;
}

int64_t GraphBlocks(int64_t blocks) {
  constexpr int64_t kLeast = 16;
  return std::max(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(blocks))), kLeast);
}

}  // namespace trireme::cuda
