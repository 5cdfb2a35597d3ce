#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/check.h"

namespace trireme::cuda {

// Host-side arithmetic of launches.

// Blocks for `units` of work, `each` a block. A grid has less than 2^31.
inline dim3 Blocks(int64_t units, int64_t each) {
  const int64_t blocks = (units + each - 1) / each;
  CHECK(blocks > 0 && blocks <= INT32_MAX);
  return dim3(static_cast<unsigned>(blocks));
}

// The y of a grid whose blocks walk over rows in its steps: a grid has less than 2^16.
inline unsigned RowBlocks(int64_t rows) {
  return static_cast<unsigned>(rows < 65535 ? rows : 65535);
}

// Whether rows of `cols` floats can be read four at a time from each of the pointers (null: yes).
template <class... Pointers>
bool InFours(int64_t cols, Pointers... pointers) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  return cols % 4 == 0 && (aligned(pointers) && ...);
}

}  // namespace trireme::cuda
