#pragma once

#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {

// Reductions of integers over a block of kScanThreads threads, all of which call them. Integers, so
// no order shows in the result.

inline constexpr int kScanThreads = 256;
inline constexpr int kScanWarps = kScanThreads / 32;

// The largest of the threads' values, to all of them.
__device__ inline uint64_t BlockMax(uint64_t value) {
  __shared__ uint64_t of_warp[kScanWarps];
  value = WarpMax(value);
  SyncThreads();  // of_warp may still be in use
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  SyncThreads();
  for (int warp = 0; warp < kScanWarps; ++warp) {
    value = of_warp[warp] > value ? of_warp[warp] : value;
  }
  return value;
}

struct BlockPrefix {
  uint64_t before;  // sum of the values of the threads before this one
  uint64_t total;
};

__device__ inline BlockPrefix BlockScan(uint64_t value) {
  __shared__ uint64_t of_warp[kScanWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  uint64_t sum = value;
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint64_t other = Shuffle(sum, lane >= distance ? lane - distance : lane);
    sum += lane >= distance ? other : 0;
  }
  SyncThreads();  // of_warp may still be in use
  if (lane == 31) of_warp[warp] = sum;
  SyncThreads();
  BlockPrefix prefix{.before = sum - value, .total = 0};
  for (int i = 0; i < kScanWarps; ++i) {
    prefix.before += i < warp ? of_warp[i] : 0;
    prefix.total += of_warp[i];
  }
  return prefix;
}

struct Found {
  int index;        // `count` if the sum of all does not exceed the target
  uint64_t before;  // sum of the values before it
};

// The first of value(0) .. value(count - 1) at which their running sum exceeds target(sum of all).
template <class Value, class Target>
__device__ Found FindInOrder(int count, const Value& value, const Target& target) {
  __shared__ Found found;
  const int each = (count + kScanThreads - 1) / kScanThreads;
  const int unclipped = static_cast<int>(threadIdx.x) * each;
  const int begin = unclipped < count ? unclipped : count;
  const int end = count - begin < each ? count : begin + each;
  uint64_t own = 0;
  for (int i = begin; i < end; ++i) own += value(i);
  const BlockPrefix prefix = BlockScan(own);
  const uint64_t wanted = target(prefix.total);
  if (threadIdx.x == 0) found = {.index = count, .before = prefix.total};
  SyncThreads();
  if (prefix.before <= wanted && wanted < prefix.before + own) {
    uint64_t before = prefix.before;
    int i = begin;
    for (uint64_t next = value(i); before + next <= wanted; next = value(++i)) before += next;
    found = {.index = i, .before = before};
  }
  SyncThreads();
  const Found result = found;
  SyncThreads();
  return result;
}

// Whether this block is the last of `blocks` to come here; it then sees what the others wrote to
// global memory before. `counter` is 0 at the start.
__device__ inline bool LastBlock(unsigned* counter, unsigned blocks) {
  __shared__ bool is_last;
  SyncThreads();
  if (threadIdx.x == 0) {
    __threadfence();
    is_last = atomicAdd(counter, 1u) == blocks - 1;
    __threadfence();
  }
  SyncThreads();
  return is_last;
}

}  // namespace trireme::cuda
