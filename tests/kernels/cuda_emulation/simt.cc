#include "simt.h"

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <utility>
#include <vector>

namespace trireme::cuda_emulation {
namespace {

using boost::context::fiber;

constexpr size_t kStackBytes = 256 * 1024;

struct PendingCopy {
  void* to;
  const void* from;
  size_t bytes;
  size_t valid_bytes;
};

struct Thread {
  fiber resume;
  uint3 index{};
  bool done = false;
  uint64_t warp_turn = 0;
  std::vector<PendingCopy> open;
  std::deque<std::vector<PendingCopy>> committed;
};

// The exchange of turn t uses buffer t % 2: a lane can be one turn ahead of another, not two.
struct Warp {
  unsigned lanes = 0;
  unsigned arrived[2] = {0, 0};
  const char* operation[2] = {nullptr, nullptr};
  uint64_t complete = 0;  // turns that all lanes have reached
  alignas(16) std::byte slots[2][kWarpLanes * kSlotBytes];
};

struct Block {
  const char* name = "";
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<std::byte> shared;
  std::byte* shared_begin = nullptr;
  unsigned arrived = 0;
  uint64_t barriers = 0;
  fiber scheduler;
  std::minstd_rand random;
};

thread_local Block* current = nullptr;

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "CUDA emulation: %s: block (%u, %u, %u), thread %u: %s\n", current->name,
               blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, what);
  std::abort();
}

// Lets the others run; returns when it is this thread's turn again.
void Yield() { current->scheduler = std::move(current->scheduler).resume(); }

size_t LinearThread() {
  return (size_t{threadIdx.z} * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}

void Start(Block& block, Thread& thread, const std::function<void()>& body,
           boost::context::pooled_fixedsize_stack& stacks) {
  thread.resume = fiber(std::allocator_arg, stacks, [&block, &thread, &body](fiber&& scheduler) {
    block.scheduler = std::move(scheduler);
    body();
    thread.done = true;
    return std::move(block.scheduler);
  });
}

void RunBlock(Block& block, const std::function<void()>& body,
              boost::context::pooled_fixedsize_stack& stacks) {
  for (Thread& thread : block.threads) Start(block, thread, body, stacks);
  std::vector<Thread*> order;
  for (Thread& thread : block.threads) order.push_back(&thread);
  size_t left = block.threads.size();
  while (left > 0) {
    const uint64_t barriers = block.barriers;
    uint64_t turns = 0;
    for (const Warp& warp : block.warps) turns += warp.complete;
    const size_t before = left;
    // Another order each time, so that a missing barrier shows.
    std::shuffle(order.begin(), order.end(), block.random);
    for (Thread* thread : order) {
      if (thread->done) continue;
      threadIdx = thread->index;
      thread->resume = std::move(thread->resume).resume();
      if (thread->done) --left;
    }
    for (const Warp& warp : block.warps) turns -= warp.complete;
    if (left > 0 && left == before && turns == 0 && barriers == block.barriers) {
      Fail("threads wait at a barrier or warp operation that the others do not reach");
    }
  }
}

void PrepareBlock(Block& block, size_t shared_bytes) {
  const size_t threads = size_t{blockDim.x} * blockDim.y * blockDim.z;
  block.threads = std::vector<Thread>(threads);
  block.warps = std::vector<Warp>((threads + kWarpLanes - 1) / kWarpLanes);
  for (size_t i = 0; i < threads; ++i) {
    const unsigned x = static_cast<unsigned>(i) % blockDim.x;
    const unsigned rest = static_cast<unsigned>(i) / blockDim.x;
    block.threads[i].index = {x, rest % blockDim.y, rest / blockDim.y};
    ++block.warps[i / kWarpLanes].lanes;
  }
  block.shared.assign(shared_bytes + 128, std::byte{0xff});
  const size_t misaligned = reinterpret_cast<uintptr_t>(block.shared.data()) % 128;
  block.shared_begin = block.shared.data() + (128 - misaligned) % 128;
  block.arrived = 0;
}

}  // namespace

void RunGrid(const dim3& grid, const dim3& threads, size_t shared_bytes, const char* name,
             const std::function<void()>& thread) {
  Block block;
  block.name = name;
  blockDim = threads;
  gridDim = grid;
  Block* const outer = std::exchange(current, &block);
  boost::context::pooled_fixedsize_stack stacks(kStackBytes);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        PrepareBlock(block, shared_bytes);
        RunBlock(block, thread, stacks);
      }
    }
  }
  current = outer;
}

std::byte* BlockMemory() { return current->shared_begin; }

void BlockBarrier() {
  Block& block = *current;
  const uint64_t mine = block.barriers;
  if (++block.arrived == block.threads.size()) {
    block.arrived = 0;
    ++block.barriers;
    return;
  }
  while (block.barriers == mine) Yield();
}

const std::byte* WarpExchange(const void* value, size_t bytes, const char* operation) {
  Block& block = *current;
  const size_t thread = LinearThread();
  Warp& warp = block.warps[thread / kWarpLanes];
  const uint64_t turn = block.threads[thread].warp_turn++;
  const size_t side = turn % 2;
  std::byte* const slots = warp.slots[side];
  std::memcpy(slots + thread % kWarpLanes * kSlotBytes, value, bytes);
  if (warp.arrived[side] == 0) warp.operation[side] = operation;
  if (std::strcmp(warp.operation[side], operation) != 0) {
    Fail("lanes of a warp are at different warp operations");
  }
  if (++warp.arrived[side] == warp.lanes) {
    warp.arrived[side] = 0;
    ++warp.complete;
    return slots;
  }
  while (warp.complete <= turn) Yield();
  return slots;
}

void CopyLater(void* to, const void* from, size_t bytes, size_t valid_bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 ||
      (valid_bytes > 0 && reinterpret_cast<uintptr_t>(from) % bytes != 0)) {
    Fail("cp.async of misaligned addresses");
  }
  current->threads[LinearThread()].open.push_back({to, from, bytes, valid_bytes});
}

void CommitCopies() {
  Thread& thread = current->threads[LinearThread()];
  thread.committed.push_back(std::move(thread.open));
  thread.open.clear();
}

void WaitCopies(size_t groups_left) {
  Thread& thread = current->threads[LinearThread()];
  while (thread.committed.size() > groups_left) {
    for (const PendingCopy& copy : thread.committed.front()) {
      std::memset(copy.to, 0, copy.bytes);
      if (copy.valid_bytes > 0) std::memcpy(copy.to, copy.from, copy.valid_bytes);
    }
    thread.committed.pop_front();
  }
}

}  // namespace trireme::cuda_emulation
