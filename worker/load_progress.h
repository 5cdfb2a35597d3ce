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

// Bytes of a load, counted by those who load for those who tell. Thread safe.
struct LoadCount {
  std::atomic<uint64_t> total{0};  // 0: not known yet
  std::atomic<uint64_t> done{0};
};

// Logs how far a load is, every few seconds: nothing of one that takes less. Thread safe.
class LoadProgress {
 public:
  static constexpr std::chrono::milliseconds kInterval{5000};

  // `count` must outlive it.
  explicit LoadProgress(const LoadCount& count, std::chrono::milliseconds interval = kInterval);
  ~LoadProgress();
  LoadProgress(const LoadProgress&) = delete;
  LoadProgress& operator=(const LoadProgress&) = delete;

 private:
  void Run();

  const LoadCount& count_;
  const std::chrono::milliseconds interval_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace trireme
