#pragma once

#include <cstdint>

#include "kernels/cuda/block_scan.cuh"
#include "kernels/token_weights.h"

namespace trireme::cuda {

// A row of logits that several blocks work on, each on a slice, and the search for its best tokens
// without sorting: tokens are counted in bins of nearly equal logits; those of the bin in which the
// search ends are listed; the last block to finish searches the list by the digits of their keys.

inline constexpr int kSliceTokens = 4096;

__host__ __device__ inline int SlicesOf(int vocab_size) {
  return (vocab_size + kSliceTokens - 1) / kSliceTokens;
}

// Calls use(id) for the ids of this block's slice, spread over its threads.
template <class Use>
__device__ void ForSlice(int vocab_size, const Use& use) {
  const int begin = static_cast<int>(blockIdx.x) * kSliceTokens;
  const int end = begin + kSliceTokens < vocab_size ? begin + kSliceTokens : vocab_size;
#pragma unroll 4
  for (int id = begin + static_cast<int>(threadIdx.x); id < end; id += kScanThreads) use(id);
}

// ---- keys

// Larger for the better token, different for all of a row: its logit's bits in their order, then
// the smaller id. 56 bits; none is 0.
inline constexpr int kIdBits = 24;
inline constexpr int kKeyBits = 32 + kIdBits;

__device__ inline uint64_t KeyOfBits(uint32_t ordered, int id) {
  return uint64_t{ordered} << kIdBits | ((1u << kIdBits) - 1 - static_cast<uint32_t>(id));
}

__device__ inline uint32_t OrderedBits(float logit) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, logit + 0.0f);  // -0 equals 0
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// Among candidates NaN counts as -infinity, of equals the smaller id is better.
__device__ inline uint64_t CandidateKey(float logit, int id) {
  return KeyOfBits(OrderedBits(NanIsLeast(logit)), id);
}

// As the largest of a row, NaN comes after all others.
__device__ inline uint64_t LargestKey(float logit, int id) {
  return KeyOfBits(logit == logit ? OrderedBits(logit) : 0, id);
}

__device__ inline int IdOf(uint64_t key) {
  return static_cast<int>((1u << kIdBits) - 1 -
                          (static_cast<uint32_t>(key) & ((1u << kIdBits) - 1)));
}

__device__ inline float LogitOf(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> kIdBits);
  const uint32_t bits = (ordered >> 31) != 0 ? ordered & 0x7fffffffu : ~ordered;
  return NanIsLeast(__builtin_bit_cast(float, bits));
}

// The best of what the row's slices found.
__device__ inline uint64_t BestOfSlices(const uint64_t* slice_best, int slices) {
  uint64_t best = 0;
  for (int i = static_cast<int>(threadIdx.x); i < slices; i += kScanThreads) {
    best = slice_best[i] > best ? slice_best[i] : best;
  }
  return BlockMax(best);
}

// ---- bins

// Bins of 1/64 in (largest - logit) / temperature, best first. The last has what is too far away to
// weigh anything: it is not counted.
inline constexpr int kBins = 2048;
inline constexpr int kBinsLast = kBins - 1;

// CUDA's 64-bit atomics know this type only.
using Sum64 = unsigned long long;

struct Bins {
  Sum64 weights[kBins];
  unsigned counts[kBins];
};

// A sum of 64 bits in shared memory, whose atomics have 32: whoever makes the lower half overflow
// carries.
struct SplitSum {
  unsigned low;
  unsigned high;

  __device__ void Add(uint64_t value) {
    const unsigned added = static_cast<unsigned>(value);
    const unsigned before = atomicAdd(&low, added);
    const unsigned rest = static_cast<unsigned>(value >> 32) + (before + added < added ? 1 : 0);
    if (rest != 0) atomicAdd(&high, rest);
  }
  __device__ uint64_t value() const { return uint64_t{high} << 32 | low; }
};

struct LogitScale {
  float largest;
  double scale;  // 1 / temperature

  __device__ int BinOf(float logit) const {
    if (logit == largest) return 0;  // infinities too
    const double x = (double{logit} - double{largest}) * scale;
    return x > -32 ? static_cast<int>(x * -64) : kBinsLast;
  }
  __device__ uint64_t WeightOf(float logit) const { return TokenWeight(logit, largest, scale); }
};

// Counts this block's slice into `bins`, which were 0 before the launch.
__device__ inline void CountIntoBins(const float* values, int vocab_size, const LogitScale& scale,
                                     Bins* bins) {
  __shared__ SplitSum own_weights[kBins];
  __shared__ unsigned own_counts[kBins];
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kScanThreads) {
    own_weights[i] = {0, 0};
    own_counts[i] = 0;
  }
  SyncThreads();
  ForSlice(vocab_size, [&](int id) {
    const int bin = scale.BinOf(values[id]);
    if (bin == kBinsLast) return;
    own_weights[bin].Add(scale.WeightOf(values[id]));
    atomicAdd(&own_counts[bin], 1u);
  });
  SyncThreads();
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kScanThreads) {
    if (own_counts[i] == 0) continue;
    atomicAdd(&bins->weights[i], Sum64{own_weights[i].value()});
    atomicAdd(&bins->counts[i], own_counts[i]);
  }
}

// This block's part of setting a row's bins to 0.
__device__ inline void ClearBins(Bins* bins) {
  const int step = static_cast<int>(gridDim.x) * kScanThreads;
  for (int i = static_cast<int>(blockIdx.x) * kScanThreads + static_cast<int>(threadIdx.x);
       i < kBins; i += step) {
    bins->weights[i] = 0;
    bins->counts[i] = 0;
  }
}

// ---- lists

// A list that a row's blocks append to, in any order: what is made of it does not depend on that.
struct IdList {
  int* ids;         // [vocab_size]
  unsigned* count;  // 0 before the launch

  __device__ void Append(int id) const { ids[atomicAdd(count, 1u)] = id; }
};

// The key at which the running sum of measure(id) over `ids`, best key first, exceeds `target`,
// which the sum of all exceeds.
template <class Measure>
__device__ uint64_t SelectKey(const float* values, const IdList& list, uint64_t target,
                              const Measure& measure) {
  constexpr int kDigitBits = 8;
  constexpr int kDigits = 1 << kDigitBits;
  __shared__ SplitSum sums[kDigits];  // of the digits, largest first
  const int count = static_cast<int>(*list.count);
  uint64_t prefix = 0;
  for (int shift = kKeyBits - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (int i = static_cast<int>(threadIdx.x); i < kDigits; i += kScanThreads) sums[i] = {0, 0};
    SyncThreads();
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kScanThreads) {
      const int id = list.ids[i];
      const uint64_t digits = CandidateKey(values[id], id) >> shift;
      if (digits >> kDigitBits != prefix) continue;
      sums[kDigits - 1 - static_cast<int>(digits % kDigits)].Add(measure(id));
    }
    SyncThreads();
    const Found found = FindInOrder(
        kDigits, [&](int i) { return sums[i].value(); }, [&](uint64_t) { return target; });
    target -= found.before;
    prefix = prefix << kDigitBits | static_cast<uint64_t>(kDigits - 1 - found.index);
  }
  return prefix;
}

}  // namespace trireme::cuda
