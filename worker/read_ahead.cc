#include "worker/read_ahead.h"

#include <sys/mman.h>
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
// Of InFileCache, and of how many one may be missing.
constexpr size_t kSamples = 1024;
constexpr size_t kSamplesPerMissing = 32;
constexpr size_t kGrantedBytes = size_t{128} << 10;

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
  const size_t step = std::max<size_t>(bytes / kSamples, PageSize());
  size_t samples = 0;
  size_t missing = 0;
  size_t next = step / 2;  // from the current stretch's begin
  for (const auto& stretch : stretches) {
    for (; next < stretch.size(); next += step, ++samples) {
      const uintptr_t at = reinterpret_cast<uintptr_t>(stretch.data() + next);
      unsigned char resident = 1;
      mincore(reinterpret_cast<void*>(at - at % PageSize()), 1, &resident);
      if ((resident & 1) == 0) ++missing;
    }
    next -= stretch.size();
  }
  return missing * kSamplesPerMissing <= samples;
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
