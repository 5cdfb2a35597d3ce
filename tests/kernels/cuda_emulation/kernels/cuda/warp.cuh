#pragma once

// kernels/cuda/warp.cuh for the emulation.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simt.h"

namespace trireme::cuda {

inline constexpr int kWarpLanes = 32;

template <class T>
T* DynamicShared() {
  return reinterpret_cast<T*>(cuda_emulation::BlockMemory());
}
inline void SyncThreads() { cuda_emulation::BlockBarrier(); }
inline void SyncWarp() { cuda_emulation::WarpExchange("", 1, "SyncWarp"); }

template <class T>
T Shuffle(T value, int lane) {
  const std::byte* all = cuda_emulation::WarpExchange(&value, sizeof(T), "Shuffle");
  std::memcpy(&value, all + static_cast<size_t>(lane & 31) * cuda_emulation::kSlotBytes, sizeof(T));
  return value;
}
template <class T>
T ShuffleXor(T value, int mask) {
  return Shuffle(value, static_cast<int>(threadIdx.x % 32) ^ mask);
}
template <class T>
T WarpSum(T value) {
  for (int mask = 16; mask > 0; mask /= 2) value += ShuffleXor(value, mask);
  return value;
}
template <class T>
T WarpMax(T value) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const T other = ShuffleXor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}
inline uint32_t Ballot(bool vote) {
  const std::byte* all = cuda_emulation::WarpExchange(&vote, sizeof(vote), "Ballot");
  uint32_t votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    votes |= static_cast<uint32_t>(all[lane * cuda_emulation::kSlotBytes] != std::byte{0}) << lane;
  }
  return votes;
}

}  // namespace trireme::cuda
