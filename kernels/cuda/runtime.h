#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace trireme::cuda {

// What the CUDA runtime gives, owned: each object frees what it holds when it goes, on whatever
// thread that is. Objects belong to the device that was current when they were made. Not thread
// safe; different objects may be used from different threads.

// OK, or an error that names `call` and what to do about it. ResourceExhausted: memory;
// FailedPrecondition: the machine, its driver or this build; Internal: a bug of ours, or the GPU
// failed, and the process cannot use it any more. LaunchStatus does not report the error again.
absl::Status ToStatus(cudaError_t error, std::string_view call);

// What went wrong with launches of the calling thread since it last asked. `what` names them.
absl::Status LaunchStatus(std::string_view what);

struct MemoryInfo {
  int64_t free_bytes = 0;  // for everyone on the GPU
  int64_t total_bytes = 0;
};
absl::StatusOr<MemoryInfo> DeviceMemoryInfo();

namespace internal {
struct Destroy {
  void operator()(std::remove_pointer_t<cudaStream_t>* stream) const { cudaStreamDestroy(stream); }
  void operator()(std::remove_pointer_t<cudaEvent_t>* event) const { cudaEventDestroy(event); }
};
struct DestroyGraph {
  void operator()(std::remove_pointer_t<cudaGraphExec_t>* graph) const {
    cudaGraphExecDestroy(graph);
  }
};
struct FreeDevice {
  void operator()(std::byte* data) const { cudaFree(data); }
};
struct FreeHost {
  void operator()(std::byte* data) const { cudaFreeHost(data); }
};
template <class T, class Deleter>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, Deleter>;
}  // namespace internal

// A point in a stream's work.
class Event {
 public:
  enum class Timing { kOff, kOn };
  static absl::StatusOr<Event> Create(Timing timing = Timing::kOff);

  cudaEvent_t get() const { return event_.get(); }
  absl::Status Record(cudaStream_t stream) const;
  // Waits for the work before the last Record. Done without one.
  absl::Status Synchronize() const;
  // Whether that work is done, without waiting.
  absl::StatusOr<bool> Done() const;
  // Between the work before two recorded events that have timing and are done.
  static absl::StatusOr<float> Milliseconds(const Event& begin, const Event& end);

 private:
  internal::Owned<cudaEvent_t, internal::Destroy> event_;
};

// A queue of work. It does not wait for the default stream, nor that one for it.
class Stream {
 public:
  static absl::StatusOr<Stream> Create();

  cudaStream_t get() const { return stream_.get(); }
  absl::Status Synchronize() const;
  // What is queued from now on waits for the event; the host does not.
  absl::Status WaitFor(const Event& event) const;
  // Copies between device memory and pinned memory, or within the device. The host's side must
  // live, and the source stay as it is, until the copy is done.
  absl::Status Copy(void* to, const void* from, int64_t bytes) const;
  absl::Status Fill(void* to, uint8_t value, int64_t bytes) const;

 private:
  internal::Owned<cudaStream_t, internal::Destroy> stream_;
};

// What memory is for, so that a message can say what to lower: {"the KV cache",
// "--kv-cache-bytes"}. No flag: other processes on the GPU are all there is to say.
struct MemoryUse {
  std::string_view purpose;
  std::string_view flag = {};
};

// Memory of the GPU, aligned to 256 bytes. Its content is undefined. Zero bytes are no memory.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  static absl::StatusOr<DeviceMemory> Allocate(int64_t bytes, const MemoryUse& use);

  std::byte* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }
  template <class T>
  T* As() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  std::unique_ptr<std::byte, internal::FreeDevice> data_;
  int64_t bytes_ = 0;
};

// Memory of the host that the GPU copies from and to by itself.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  static absl::StatusOr<PinnedMemory> Allocate(int64_t bytes, const MemoryUse& use);

  std::byte* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }
  template <class T>
  T* As() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  std::unique_ptr<std::byte, internal::FreeHost> data_;
  int64_t bytes_ = 0;
};

// Work that was recorded once and is launched as one.
class Graph {
 public:
  // What `queue` puts on the stream is recorded instead of run. It must not wait for the GPU nor
  // allocate its memory; pointers and sizes are those of now, each launch reads memory anew.
  static absl::StatusOr<Graph> Capture(const Stream& stream,
                                       const std::function<absl::Status()>& queue);

  absl::Status Launch(const Stream& stream) const;

 private:
  internal::Owned<cudaGraphExec_t, internal::DestroyGraph> graph_;
};

}  // namespace trireme::cuda
