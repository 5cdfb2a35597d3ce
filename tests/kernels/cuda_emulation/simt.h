#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

// The SIMT model of CUDA on a CPU, for tests: a launch runs its blocks one after another, a block's
// threads as fibers that take turns, in a shuffled order, at barriers and warp operations. It is
// strict where hardware is lenient: all lanes of a warp must meet at the same warp operation, and a
// thread that ends while others wait for it ends the process with the kernel's name. A launch
// belongs to the operating system thread that makes it; ranks of a test may be threads.

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the fiber that runs.
inline thread_local uint3 threadIdx{};
inline thread_local uint3 blockIdx{};
inline thread_local dim3 blockDim;
inline thread_local dim3 gridDim;

namespace trireme::cuda_emulation {

inline constexpr unsigned kWarpLanes = 32;
inline constexpr size_t kSlotBytes = 64;  // of a lane's value in an exchange

// Runs every thread of every block. `name` is for messages.
void RunGrid(const dim3& grid, const dim3& block, size_t shared_bytes, const char* name,
             const std::function<void()>& thread);

// The block's dynamic shared memory, poisoned when the block starts, aligned to 128 bytes.
std::byte* BlockMemory();

// All threads of the block.
void BlockBarrier();
// Every lane gives `bytes` bytes, at most kSlotBytes, and sees those of all lanes: lane l's at
// result + l * kSlotBytes, until its next exchange. `operation` names it; lanes must agree.
const std::byte* WarpExchange(const void* value, size_t bytes, const char* operation);

// cp.async: the copy happens only when its group is waited for, so that a missing wait shows.
void CopyLater(void* to, const void* from, size_t bytes, size_t valid_bytes);
void CommitCopies();
void WaitCopies(size_t groups_left);

}  // namespace trireme::cuda_emulation

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __grid_constant__
