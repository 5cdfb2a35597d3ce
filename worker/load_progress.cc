#include "worker/load_progress.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"

namespace trireme {

std::string DescribeProgress(uint64_t done, uint64_t total, uint64_t recent_bytes,
                             std::chrono::duration<double> recent) {
  const double share = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
  std::string text =
      absl::StrFormat("loading: %.2f of %.2f GB (%d %%), ", static_cast<double>(done) / 1e9,
                      static_cast<double>(total) / 1e9, static_cast<int>(share * 100));
  if (recent_bytes == 0) {
    return absl::StrCat(text, absl::StrFormat("nothing for %.0f s", recent.count()));
  }
  const double rate = static_cast<double>(recent_bytes) / recent.count();
  return absl::StrCat(text, absl::StrFormat("%.2f GB/s, %.0f s to go", rate / 1e9,
                                            static_cast<double>(total - done) / rate));
}

LoadProgress::LoadProgress(const LoadCount& count, std::chrono::milliseconds interval)
    : count_(count), interval_(interval), thread_([this] { Run(); }) {}

LoadProgress::~LoadProgress() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

// Of its own, so that it also tells of a file that does not come.
void LoadProgress::Run() {
  std::unique_lock lock(mutex_);
  uint64_t before = 0;
  auto moved = std::chrono::steady_clock::now();  // when the last bytes had come
  while (!changed_.wait_for(lock, interval_, [this] { return ended_; })) {
    const auto now = std::chrono::steady_clock::now();
    const uint64_t done = count_.done;
    LogInfo(DescribeProgress(done, count_.total, done - before, now - moved));
    if (done > before) moved = now;
    before = done;
  }
}

}  // namespace trireme
