#include "kernels/cuda/runtime.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace trireme::cuda {
namespace {

std::string Amount(int64_t bytes) {
  if (bytes >= int64_t{1} << 30) {
    return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (1 << 30));
  }
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

absl::Status OutOfDeviceMemory(int64_t bytes, const MemoryUse& use) {
  std::string message = absl::StrCat("cannot allocate ", Amount(bytes), " of GPU memory for ",
                                     std::string(use.purpose));
  if (const absl::StatusOr<MemoryInfo> info = DeviceMemoryInfo(); info.ok()) {
    absl::StrAppend(&message, ": ", Amount(info->free_bytes), " of ", Amount(info->total_bytes),
                    " are free");
  }
  absl::StrAppend(&message, "; ");
  if (!use.flag.empty()) absl::StrAppend(&message, "lower ", std::string(use.flag), ", or ");
  absl::StrAppend(&message, "stop other processes on this GPU (nvidia-smi lists them)");
  return absl::ResourceExhaustedError(message);
}

}  // namespace

absl::Status ToStatus(cudaError_t error, std::string_view call) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // the runtime keeps it; the next launch is not to be blamed
  const std::string what = absl::StrCat(std::string(call), ": ", cudaGetErrorName(error), " (",
                                        cudaGetErrorString(error), ")");
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(
          absl::StrCat(what, "; stop other processes on this GPU (nvidia-smi lists them)"));
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
      return absl::FailedPreconditionError(
          absl::StrCat(what, "; `nvidia-smi` must list a GPU and a driver for CUDA ",
                       CUDART_VERSION / 1000, " or newer"));
    case cudaErrorInvalidDevice:
      return absl::FailedPreconditionError(
          absl::StrCat(what,
                       "; there is no GPU of that number (see nvidia-smi and "
                       "CUDA_VISIBLE_DEVICES)"));
    case cudaErrorNoKernelImageForDevice:
      return absl::FailedPreconditionError(absl::StrCat(
          what,
          "; this build has no code for this GPU: build with its compute capability in "
          "-DCMAKE_CUDA_ARCHITECTURES"));
    case cudaErrorECCUncorrectable:
      return absl::InternalError(
          absl::StrCat(what, "; the GPU's memory is damaged: take it out of service"));
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
      return absl::InternalError(
          absl::StrCat(what,
                       "; a kernel failed, then or before, and the process must be started again. "
                       "compute-sanitizer shows which"));
    default:
      return absl::InternalError(what);
  }
}

absl::Status LaunchStatus(std::string_view what) {
  return ToStatus(cudaGetLastError(), absl::StrCat("launching ", std::string(what)));
}

absl::StatusOr<MemoryInfo> DeviceMemoryInfo() {
  size_t free = 0;
  size_t total = 0;
  RETURN_IF_ERROR(ToStatus(cudaMemGetInfo(&free, &total), "cudaMemGetInfo"));
  return MemoryInfo{.free_bytes = static_cast<int64_t>(free),
                    .total_bytes = static_cast<int64_t>(total)};
}

absl::StatusOr<Event> Event::Create(Timing timing) {
  cudaEvent_t event = nullptr;
  const unsigned flags = timing == Timing::kOn ? 0 : cudaEventDisableTiming;
  RETURN_IF_ERROR(ToStatus(cudaEventCreateWithFlags(&event, flags), "cudaEventCreateWithFlags"));
  Event made;
  made.event_.reset(event);
  return made;
}

absl::Status Event::Record(cudaStream_t stream) const {
  return ToStatus(cudaEventRecord(event_.get(), stream), "cudaEventRecord");
}

absl::Status Event::Synchronize() const {
  return ToStatus(cudaEventSynchronize(event_.get()), "cudaEventSynchronize");
}

absl::StatusOr<bool> Event::Done() const {
  const cudaError_t error = cudaEventQuery(event_.get());
  if (error == cudaErrorNotReady) {
    cudaGetLastError();  // not an error, but kept as one
    return false;
  }
  RETURN_IF_ERROR(ToStatus(error, "cudaEventQuery"));
  return true;
}

absl::StatusOr<float> Event::Milliseconds(const Event& begin, const Event& end) {
  float milliseconds = 0;
  RETURN_IF_ERROR(ToStatus(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()),
                           "cudaEventElapsedTime"));
  return milliseconds;
}

absl::StatusOr<Stream> Stream::Create() {
  cudaStream_t stream = nullptr;
  RETURN_IF_ERROR(ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                           "cudaStreamCreateWithFlags"));
  Stream made;
  made.stream_.reset(stream);
  return made;
}

absl::Status Stream::Synchronize() const {
  return ToStatus(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
}

absl::Status Stream::WaitFor(const Event& event) const {
  return ToStatus(cudaStreamWaitEvent(stream_.get(), event.get(), 0), "cudaStreamWaitEvent");
}

absl::Status Stream::Copy(void* to, const void* from, int64_t bytes) const {
  return ToStatus(
      cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream_.get()),
      "cudaMemcpyAsync");
}

absl::Status Stream::Fill(void* to, uint8_t value, int64_t bytes) const {
  return ToStatus(cudaMemsetAsync(to, value, static_cast<size_t>(bytes), stream_.get()),
                  "cudaMemsetAsync");
}

absl::StatusOr<DeviceMemory> DeviceMemory::Allocate(int64_t bytes, const MemoryUse& use) {
  DeviceMemory made;
  made.bytes_ = bytes;
  if (bytes == 0) return made;
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the caller may go on with less
    return OutOfDeviceMemory(bytes, use);
  }
  RETURN_IF_ERROR(ToStatus(error, "cudaMalloc"));
  made.data_.reset(static_cast<std::byte*>(data));
  return made;
}

absl::StatusOr<PinnedMemory> PinnedMemory::Allocate(int64_t bytes, const MemoryUse& use) {
  PinnedMemory made;
  made.bytes_ = bytes;
  if (bytes == 0) return made;
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocDefault);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot pin ", Amount(bytes), " of host memory for ", std::string(use.purpose), "; ",
        use.flag.empty() ? "" : absl::StrCat("lower ", std::string(use.flag), ", or "),
        "free memory of this machine, or raise the limit of locked memory (ulimit -l)"));
  }
  RETURN_IF_ERROR(ToStatus(error, "cudaHostAlloc"));
  made.data_.reset(static_cast<std::byte*>(data));
  return made;
}

absl::StatusOr<Graph> Graph::Capture(const Stream& stream,
                                     const std::function<absl::Status()>& queue) {
  RETURN_IF_ERROR(ToStatus(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
                           "cudaStreamBeginCapture"));
  const absl::Status queued = queue();
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream.get(), &graph);
  struct Destroy {
    void operator()(std::remove_pointer_t<cudaGraph_t>* g) const { cudaGraphDestroy(g); }
  };
  const internal::Owned<cudaGraph_t, Destroy> owned(graph);
  if (!queued.ok()) {
    cudaGetLastError();  // of a capture that is given up
    return queued;
  }
  RETURN_IF_ERROR(ToStatus(ended, "cudaStreamEndCapture"));
  cudaGraphExec_t exec = nullptr;
  RETURN_IF_ERROR(ToStatus(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate"));
  Graph made;
  made.graph_.reset(exec);
  return made;
}

absl::Status Graph::Launch(const Stream& stream) const {
  return ToStatus(cudaGraphLaunch(graph_.get(), stream.get()), "cudaGraphLaunch");
}

}  // namespace trireme::cuda
