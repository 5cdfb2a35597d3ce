#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace trireme {

// "loading: 12.30 of 45.60 GB (26 %), 1.23 GB/s, 28 s to go"; the rate is that of the last
// `recent_bytes` in `recent`, and the rest is taken to go on like that.
std::string DescribeProgress(uint64_t done, uint64_t total, uint64_t recent_bytes,
                             std::chrono::duration<double> recent);

// Logs how far a load is, every few seconds: nothing of one that takes less. Thread safe.
class LoadProgress {
 public:
  static constexpr std::chrono::milliseconds kInterval{5000};

  explicit LoadProgress(uint64_t total_bytes, std::chrono::milliseconds interval = kInterval);
  ~LoadProgress();
  LoadProgress(const LoadProgress&) = delete;
  LoadProgress& operator=(const LoadProgress&) = delete;

  // So many bytes more are loaded.
  void Add(uint64_t bytes) { done_ += bytes; }

 private:
  void Run();

  const uint64_t total_;
  const std::chrono::milliseconds interval_;
  std::atomic<uint64_t> done_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace trireme
