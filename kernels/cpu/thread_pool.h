#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <thread>
#include <vector>

namespace trireme::cpu {

// A fixed set of threads that run one function together. The caller's thread takes part. Threads
// spin briefly between calls (a step calls hundreds of times a millisecond apart), then sleep. Not
// thread safe: one caller at a time.
class ThreadPool {
 public:
  // Thread i stays on CPU cpus[i]; anywhere if there are none. The caller's thread, 0, goes there
  // with the first Run.
  explicit ThreadPool(int threads, std::span<const int> cpus = {});
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs task(0) ... task(size() - 1), each on its own thread, and returns when all are done.
  // Tasks must not throw.
  void Run(const std::function<void(int)>& task);

  // Runs task(begin, end, thread) over [0, n) in one contiguous part per thread; inner borders are
  // multiples of `grain`.
  void ParallelFor(int64_t n, int64_t grain,
                   const std::function<void(int64_t, int64_t, int)>& task);

 private:
  void WorkerLoop(int index);

  const std::vector<int> cpus_;
  bool caller_bound_ = false;
  const std::function<void(int)>* task_ = nullptr;
  std::atomic<uint32_t> generation_{0};  // each change is one Run
  std::atomic<int> pending_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace trireme::cpu
