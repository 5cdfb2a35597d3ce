#pragma once

#include <cstdint>

// Flags in memory that several GPUs (or processes) see. What a thread, or before a barrier its
// block, wrote before a release is seen by whoever acquires the value. The tests' emulation has a
// header of this name with the same functions.

namespace trireme::cuda {

__device__ __forceinline__ void StoreRelease(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
// Time that passes at the same rate on every device; of no fixed beginning.
__device__ __forceinline__ uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}
// Between two looks at a flag.
__device__ __forceinline__ void SpinPause() { __nanosleep(40); }

}  // namespace trireme::cuda
