#pragma once

// kernels/cuda/system_flags.cuh for the emulation: ranks are threads.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace trireme::cuda {

inline void StoreRelease(uint32_t* flag, uint32_t value) {
  std::atomic_ref<uint32_t>(*flag).store(value, std::memory_order_release);
}
inline uint32_t LoadAcquire(const uint32_t* flag) {
  return std::atomic_ref<uint32_t>(*const_cast<uint32_t*>(flag)).load(std::memory_order_acquire);
}
inline uint64_t Nanoseconds() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                               std::chrono::nanoseconds(1));
}
inline void SpinPause() { std::this_thread::yield(); }

}  // namespace trireme::cuda
