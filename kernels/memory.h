#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace trireme {

class Memory;

// Owned memory of a Memory, which must outlive it. Movable; frees itself.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Memory* memory, std::byte* data, size_t size)
      : memory_(memory), data_(data), size_(size) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  Memory* memory_ = nullptr;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Fills fresh memory from the host, a piece at a time. Not thread safe, but several writers of one
// Memory may fill different pieces at once: loading weights has one for each thread.
class MemoryWriter {
 public:
  virtual ~MemoryWriter() = default;
  // Zeroed host memory for `bytes` bytes that End brings to `to`, which nobody has written before.
  // That is `to` itself where the host reaches it, or else page-locked memory that is on its way
  // while the next piece is written.
  virtual absl::StatusOr<std::byte*> Begin(std::byte* to, size_t bytes) = 0;
  virtual absl::Status End() = 0;
  // Waits until all pieces have arrived.
  virtual absl::Status Finish() = 0;
};

// Waits until `done` says true, or is an error: its own, or one that the waiting itself notices.
using DeviceWait = std::function<absl::Status(const std::function<absl::StatusOr<bool>()>& done)>;

// Where the operands of Ops lie: the host's memory, or a device's. What copies and zeroes does so
// in the order of the Ops' work, before what is asked later and after what was asked earlier; one
// thread uses a Memory and its Ops at a time, but for MakeWriter's writers. Errors:
// RESOURCE_EXHAUSTED where there is not enough, INTERNAL for what the device reports, which may be
// the failure of any earlier work; then the device is of no further use.
class Memory {
 public:
  virtual ~Memory() = default;

  // The host may read and write this memory by its addresses; else only through this interface.
  virtual bool on_host() const = 0;
  // Bytes that can still be allocated; of the host without swapping, within the limit of the
  // process's control group.
  virtual absl::StatusOr<int64_t> Available() const = 0;
  // Zeroed, aligned to 256 bytes at least.
  virtual absl::StatusOr<Buffer> Allocate(size_t bytes) = 0;

  // From the host; `from` may change as soon as it returns.
  virtual absl::Status CopyIn(void* to, std::span<const std::byte> from) = 0;
  // To the host; waits for it, and for all earlier work.
  virtual absl::Status CopyOut(std::span<std::byte> to, const void* from) = 0;
  // Within this memory; the two must not overlap.
  virtual absl::Status Copy(void* to, const void* from, size_t bytes) = 0;
  virtual absl::Status Zero(void* to, size_t bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<MemoryWriter>> MakeWriter() = 0;
  // How this memory and its Ops wait for a device's work from now on, which may wait for other
  // ranks and never be done when one is lost; null: as long as it takes. The host's has no such
  // work.
  virtual void WaitBy(DeviceWait) {}

  // The point behind all that was asked for until now. The host's work is done by then.
  virtual absl::StatusOr<uint64_t> Mark() { return uint64_t{0}; }
  // Waits until the work before a mark, one of the last four, is done: true. Or false, as soon as
  // `instead`, which may be null, says true.
  virtual absl::StatusOr<bool> Reach(uint64_t, const std::function<bool()>&) { return true; }

  // The values as the host can read them: themselves, or a copy in `room`.
  template <class T>
  absl::StatusOr<std::span<const T>> Read(std::span<const T> values, std::vector<T>& room) {
    if (on_host()) return values;
    room.resize(values.size());
    const absl::Status copied = CopyOut(std::as_writable_bytes(std::span(room)), values.data());
    if (!copied.ok()) return copied;
    return std::span<const T>(room);
  }

 private:
  friend class Buffer;
  virtual void Free(std::byte* data, size_t bytes) = 0;
};

inline Buffer::~Buffer() {
  if (data_ != nullptr) memory_->Free(data_, size_);
}

// A growable array in a Memory. Its content is lost when it is resized.
template <class T>
class DeviceVector {
 public:
  // The array has room for `size` elements from now on, of any value. Memory is only taken when it
  // has never been so large.
  absl::StatusOr<std::span<T>> Resize(Memory& memory, int64_t size) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    if (bytes > buffer_.size()) {
      buffer_ = Buffer();  // first, so that both are never there together
      absl::StatusOr<Buffer> grown = memory.Allocate(bytes);
      if (!grown.ok()) return grown.status();
      buffer_ = *std::move(grown);
    }
    size_ = static_cast<size_t>(size);
    return span();
  }
  // Takes values from the host.
  absl::Status Assign(Memory& memory, std::span<const T> values) {
    const absl::Status resized = Resize(memory, static_cast<int64_t>(values.size())).status();
    if (!resized.ok() || values.empty()) return resized;
    return memory.CopyIn(buffer_.data(), std::as_bytes(values));
  }

  std::span<T> span() const { return {reinterpret_cast<T*>(buffer_.data()), size_}; }
  size_t size() const { return size_; }

 private:
  Buffer buffer_;
  size_t size_ = 0;
};

// The host's memory, in pages from the system, huge ones where it gives them; pages never touched
// take none. Its operations are done when they return. Safe to use from any thread.
Memory& HostMemory();
// Bytes of the host, or the limit of the process's control group: the same at each start.
absl::StatusOr<int64_t> HostMemoryTotal();

}  // namespace trireme
