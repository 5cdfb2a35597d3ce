#pragma once

#include <cstdint>

// Asynchronous copies from global to shared memory (PTX cp.async): each thread's copies since its
// last commit are a group, and groups complete in order. Other threads see the bytes after the
// copier's wait and a barrier. Addresses are aligned to 16 bytes.

namespace trireme::cuda {

__device__ __forceinline__ void CopyAsync16(void* shared, const void* global) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
// Zeros if not `valid`; then `global` is not read.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool valid) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Returns when at most kLeft of this thread's groups are under way.
template <int kLeft>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

}  // namespace trireme::cuda
