#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "kernels/cuda/runtime.h"
#include "kernels/memory.h"

namespace trireme::cuda {

// A GPU's memory, with its copies on one stream, the Ops' own.
class CudaMemory final : public Memory {
 public:
  // Of the GPU `device`, which becomes the calling thread's current one.
  static absl::StatusOr<std::unique_ptr<CudaMemory>> Create(int device);

  bool on_host() const override { return false; }
  absl::StatusOr<int64_t> Available() const override;
  absl::StatusOr<Buffer> Allocate(size_t bytes) override;
  absl::Status CopyIn(void* to, std::span<const std::byte> from) override;
  absl::Status CopyOut(std::span<std::byte> to, const void* from) override;
  absl::Status Copy(void* to, const void* from, size_t bytes) override;
  absl::Status Zero(void* to, size_t bytes) override;
  absl::StatusOr<std::unique_ptr<MemoryWriter>> MakeWriter() override;
  void WaitBy(DeviceWait wait) override { wait_ = std::move(wait); }
  absl::StatusOr<uint64_t> Mark() override;
  absl::StatusOr<bool> Reach(uint64_t mark, const std::function<bool()>& instead) override;

  // Waits for the work before the event, and for all there is.
  absl::Status Await(const Event& event) const;
  absl::Status Drain();

  const Stream& stream() const { return stream_; }
  // Keeps the first error of work that could not return it; CopyOut does.
  void Note(const absl::Status& status) { error_.Update(status); }
  absl::Status error() const { return error_; }
  // Is called before memory goes back, whose address recorded work may know.
  void OnFree(std::function<void()> on_free) { on_free_ = std::move(on_free); }

 private:
  explicit CudaMemory(int device) : device_(device) {}
  void Free(std::byte* data, size_t bytes) override;
  // Of all that was done, which may not have shown before.
  absl::Status Errors() const;

  const int device_;
  Stream stream_;
  Event drained_;
  std::array<Event, 4> marks_;
  uint64_t marked_ = 0;
  DeviceWait wait_;
  std::map<std::byte*, DeviceMemory> allocations_;
  std::function<void()> on_free_ = [] {};
  absl::Status error_;
};

}  // namespace trireme::cuda
