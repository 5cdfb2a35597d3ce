#include "worker/read_ahead.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace trireme {
namespace {

// Enough to keep a fast disk busy while a large tensor is packed, little beside a host's memory.
constexpr size_t kAheadBytes = size_t{256} << 20;
// A request, as large as some devices take it. Of others Linux grants only the beginning, but no
// less than the second of these; asking for what is on its way costs little.
constexpr size_t kRequestBytes = size_t{2} << 20;
constexpr size_t kGrantedBytes = size_t{128} << 10;

// InFileCache takes so many samples of large files, and one of so many bytes of others, more than a
// system reads at once; of so many samples one may be missing.
constexpr size_t kSamples = 1024;
constexpr size_t kSampleStep = size_t{1} << 20;
constexpr size_t kSamplesPerMissing = 32;

// Of this thread: pages that it waited for a disk to give.
int64_t MajorFaults() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_majflt;
}

uintptr_t PageSize() {
  static const uintptr_t kBytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return kBytes;
}

void WillNeed(std::span<const std::byte> bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t start = begin - begin % PageSize();
  posix_madvise(reinterpret_cast<void*>(start), begin - start + bytes.size(), POSIX_MADV_WILLNEED);
}

void Request(std::span<const std::byte> bytes) {
  WillNeed(bytes);
  while (bytes.size() > kGrantedBytes) {
    bytes = bytes.subspan(kGrantedBytes);
    WillNeed(bytes.first(std::min(bytes.size(), kGrantedBytes)));
  }
}

}  // namespace

void DoneWith(std::span<const std::byte> bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t first = (begin + PageSize() - 1) / PageSize() * PageSize();
  const uintptr_t end = (begin + bytes.size()) / PageSize() * PageSize();
  // Not POSIX_MADV_DONTNEED, which the C library ignores.
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

bool InFileCache(const ReadAhead::Stretches& stretches) {
  size_t bytes = 0;
  for (const auto& stretch : stretches) bytes += stretch.size();
  const size_t step = std::max(bytes / kSamples, kSampleStep);
  const int64_t missing_max = static_cast<int64_t>(bytes / step / kSamplesPerMissing);
  const int64_t before = MajorFaults();
  size_t next = step / 2;  // from the current stretch's begin
  for (const auto& stretch : stretches) {
    for (; next < stretch.size(); next += step) {
      [[maybe_unused]] const std::byte sample =
          *static_cast<const volatile std::byte*>(&stretch[next]);
      if (MajorFaults() - before > missing_max) return false;
    }
    next -= stretch.size();
  }
  return true;
}

ReadAhead::ReadAhead(std::vector<Stretches> items) : items_(std::move(items)) {
  size_t end = 0;
  for (const Stretches& stretches : items_) {
    for (const auto& stretch : stretches) end += stretch.size();
    ends_.push_back(end);
  }
  thread_ = std::thread([this] { Run(); });
}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ReadAhead::Begin(size_t item) {
  {
    const std::lock_guard lock(mutex_);
    if (item <= current_) return;
    current_ = item;
  }
  changed_.notify_all();
}

// False at the end.
bool ReadAhead::WaitUntilWanted(size_t item) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return ended_ || item <= current_ || ends_[item - 1] - ends_[current_] < kAheadBytes;
  });
  return !ended_;
}

void ReadAhead::Run() {
  for (size_t item = 0; item < items_.size(); ++item) {
    for (std::span<const std::byte> stretch : items_[item]) {
      while (!stretch.empty()) {
        if (!WaitUntilWanted(item)) return;
        const size_t bytes = std::min(stretch.size(), kRequestBytes);
        Request(stretch.first(bytes));
        stretch = stretch.subspan(bytes);
      }
    }
  }
}

}  // namespace trireme
