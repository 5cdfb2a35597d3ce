#include "kernels/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>

namespace trireme::cpu {
namespace {

// About 20 microseconds: longer than the gap between two kernels of a step, shorter than one
// between steps. With fewer cores than threads a spinning thread holds up the one it waits for, so
// it sleeps at once.
int SpinLimit(int threads) {
  return threads <= static_cast<int>(std::thread::hardware_concurrency()) ? 4000 : 0;
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until value != old.
template <class T>
void WaitForChange(const std::atomic<T>& value, T old, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

// Where the system does not allow it, the thread goes on anywhere.
void StayOn(const std::vector<int>& cpus, int index) {
#if defined(__linux__)
  if (static_cast<size_t>(index) >= cpus.size()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpus[static_cast<size_t>(index)], &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads, std::span<const int> cpus) : cpus_(cpus.begin(), cpus.end()) {
  for (int i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i] { WorkerLoop(i); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(const std::function<void(int)>& task) {
  if (!caller_bound_) {
    StayOn(cpus_, 0);
    caller_bound_ = true;
  }
  if (workers_.empty()) return task(0);
  task_ = &task;
  pending_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  task(0);
  const int spins = SpinLimit(size());
  for (int left = pending_.load(std::memory_order_acquire); left != 0;
       left = pending_.load(std::memory_order_acquire)) {
    WaitForChange(pending_, left, spins);
  }
}

void ThreadPool::ParallelFor(int64_t n, int64_t grain,
                             const std::function<void(int64_t, int64_t, int)>& task) {
  const int64_t units = (n + grain - 1) / grain;
  if (size() == 1 || units <= 1) return task(0, n, 0);
  const std::function<void(int)> part = [&](int thread) {
    const int64_t begin = units * thread / size() * grain;
    const int64_t end = std::min(n, units * (thread + 1) / size() * grain);
    if (begin < end) task(begin, end, thread);
  };
  Run(part);
}

void ThreadPool::WorkerLoop(int index) {
  StayOn(cpus_, index);
  const int spins = SpinLimit(index + 1);
  uint32_t seen = 0;
  while (true) {
    WaitForChange(generation_, seen, spins);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    (*task_)(index);
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  }
}

}  // namespace trireme::cpu
