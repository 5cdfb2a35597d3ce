#pragma once

#include <cstdint>

// Barriers, shared memory and warp operations of device code. The tests' emulation has a header of
// this name with the same functions (tests/kernels/cuda_emulation), so that kernels name no
// intrinsic themselves. Every lane of the warp must call a warp operation.

namespace trireme::cuda {

inline constexpr int kWarpLanes = 32;

// The launch's dynamic shared memory, aligned to 128 bytes.
template <class T>
__device__ __forceinline__ T* DynamicShared() {
  extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}
__device__ __forceinline__ void SyncThreads() { __syncthreads(); }
__device__ __forceinline__ void SyncWarp() { __syncwarp(); }

// The value of lane `lane`, or of the lane whose number differs in the bits of `mask`.
template <class T>
__device__ __forceinline__ T Shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <class T>
__device__ __forceinline__ T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
// Over all lanes, the same bits in each: a butterfly of commuting additions.
template <class T>
__device__ __forceinline__ T WarpSum(T value) {
  for (int mask = 16; mask > 0; mask /= 2) value += ShuffleXor(value, mask);
  return value;
}
template <class T>
__device__ __forceinline__ T WarpMax(T value) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const T other = ShuffleXor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}
__device__ __forceinline__ uint32_t Ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }

}  // namespace trireme::cuda
