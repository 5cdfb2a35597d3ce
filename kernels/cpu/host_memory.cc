#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/memory.h"

namespace trireme {
namespace {

// The number behind `key` in a file of "key number" lines; nullopt if there is none.
std::optional<int64_t> FindNumber(const char* path, std::string_view key) {
  std::ifstream in(path);
  std::string word;
  int64_t value = 0;
  while (in >> word) {
    if (word == key) return in >> value ? std::optional(value) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<int64_t> ReadNumber(const char* path) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value ? std::optional(value) : std::nullopt;  // a limit of "max" is no number
}

class InPlaceWriter final : public MemoryWriter {
 public:
  absl::StatusOr<std::byte*> Begin(std::byte* to, size_t) override { return to; }
  absl::Status End() override { return absl::OkStatus(); }
  absl::Status Finish() override { return absl::OkStatus(); }
};

class HostPages final : public Memory {
 public:
  bool on_host() const override { return true; }

  absl::StatusOr<int64_t> Available() const override {
    const std::optional<int64_t> host_kib = FindNumber("/proc/meminfo", "MemAvailable:");
    if (!host_kib) return absl::UnavailableError("/proc/meminfo does not say MemAvailable");
    int64_t available = *host_kib * 1024;
    const std::optional<int64_t> limit = ReadNumber("/sys/fs/cgroup/memory.max");
    const std::optional<int64_t> used = ReadNumber("/sys/fs/cgroup/memory.current");
    if (limit && used) {
      // Mapped checkpoints count as used, but give way.
      const int64_t cached = FindNumber("/sys/fs/cgroup/memory.stat", "inactive_file").value_or(0);
      available = std::min(available, *limit - *used + cached);
    }
    return std::max<int64_t>(available, 0);
  }

  absl::StatusOr<Buffer> Allocate(size_t bytes) override {
    if (bytes == 0) return Buffer();
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot allocate ", bytes, " bytes: ", std::strerror(errno)));
    }
    madvise(data, bytes, MADV_HUGEPAGE);  // a wish: without huge pages it is only slower
    return Buffer(this, static_cast<std::byte*>(data), bytes);
  }

  absl::Status CopyIn(void* to, std::span<const std::byte> from) override {
    return Copy(to, from.data(), from.size());
  }
  absl::Status CopyOut(std::span<std::byte> to, const void* from) override {
    return Copy(to.data(), from, to.size());
  }
  absl::Status Copy(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return absl::OkStatus();
  }
  absl::Status Zero(void* to, size_t bytes) override {
    if (bytes > 0) std::memset(to, 0, bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<MemoryWriter>> MakeWriter() override {
    return std::make_unique<InPlaceWriter>();
  }

 private:
  void Free(std::byte* data, size_t bytes) override { munmap(data, bytes); }
};

}  // namespace

absl::StatusOr<int64_t> HostMemoryTotal() {
  const std::optional<int64_t> host_kib = FindNumber("/proc/meminfo", "MemTotal:");
  if (!host_kib) return absl::UnavailableError("/proc/meminfo does not say MemTotal");
  return std::min(*host_kib * 1024,
                  ReadNumber("/sys/fs/cgroup/memory.max").value_or(*host_kib * 1024));
}

Memory& HostMemory() {
  static HostPages memory;
  return memory;
}

}  // namespace trireme
