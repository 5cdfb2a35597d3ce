#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"

struct CudaEmulatedGraph {
  std::vector<std::function<void()>> nodes;
};
struct CudaEmulatedStream {
  // Runs what was queued up to the `number`-th.
  void RunTo(uint64_t number) {
    const std::lock_guard lock(mutex);
    while (done < number) {
      const std::function<void()> work = std::move(queue.front());
      queue.pop_front();
      work();
      ++done;
    }
  }
  void Run() { RunTo(queued); }

  std::unique_ptr<CudaEmulatedGraph> capture;  // while it captures
  bool invalidated = false;
  const std::thread::id owner = std::this_thread::get_id();
  std::recursive_mutex mutex;  // another stream's thread may wait for this one
  std::deque<std::function<void()>> queue;
  uint64_t queued = 0;  // in all
  uint64_t done = 0;    // of them
};
// A point in a stream's work.
struct EmulatedPoint {
  cudaStream_t stream = nullptr;
  uint64_t number = 0;
  bool reached = false;
  std::chrono::steady_clock::time_point at;

  void Reach() const {
    if (!reached) stream->RunTo(number);
  }
};
struct CudaEmulatedEvent {
  std::shared_ptr<EmulatedPoint> point = {};  // null: never recorded
  bool asked = false;
};

namespace {

constexpr int kDevices = 4;
// The last is one of compute capability 8.0, the others of 9.0.
int MajorOf(int device) { return device == kDevices - 1 ? 8 : 9; }
constexpr size_t kMemoryBytes = size_t{8} << 30;

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

// The device's memory in use, which threads share as processes share a device.
struct Allocations {
  std::mutex mutex;
  std::unordered_map<void*, size_t> bytes;
  size_t used = 0;
};
Allocations& DeviceAllocations() {
  static Allocations allocations;
  return allocations;
}

cudaError_t Failed(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// Synchronising calls end a capture, as on a device.
cudaError_t CheckNotCapturing(cudaStream_t stream) {
  if (stream == nullptr || stream->capture == nullptr) return cudaSuccess;
  stream->invalidated = true;
  return Failed(cudaErrorStreamCaptureUnsupported);
}

struct Streams {
  std::mutex mutex;
  std::vector<cudaStream_t> all;
};
Streams& AllStreams() {
  static Streams streams;
  return streams;
}

// What waits for the whole device waits for the streams of its thread: each rank of a test is one.
void RunStreams() {
  std::vector<cudaStream_t> mine;
  {
    const std::lock_guard lock(AllStreams().mutex);
    for (const cudaStream_t stream : AllStreams().all) {
      if (stream->owner == std::this_thread::get_id()) mine.push_back(stream);
    }
  }
  for (const cudaStream_t stream : mine) stream->Run();
}

// Not rounded up, so that AddressSanitizer sees what reads or writes past the end.
void* AllocatePoisoned(size_t bytes) {
  constexpr size_t kAlignment = 256;
  void* data = nullptr;
  if (posix_memalign(&data, kAlignment, bytes) != 0) return nullptr;
  return std::memset(data, 0xff, bytes);
}

// Calls that a capture in this thread forbids.
thread_local int captures = 0;
bool Forbidden() { return captures > 0; }

}  // namespace

namespace trireme::cuda_emulation {

cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work) {
  if (stream != nullptr && stream->capture != nullptr) {
    stream->capture->nodes.push_back(std::move(work));
  } else if (stream != nullptr) {
    const std::lock_guard lock(stream->mutex);
    stream->queue.push_back(std::move(work));
    ++stream->queued;
  } else {
    work();
  }
  return cudaSuccess;
}

cudaError_t EnqueueLaunch(const cudaLaunchConfig_t& config, const char* name,
                          std::function<void()> thread) {
  const dim3 grid = config.gridDim;
  const dim3 block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu ||
      config.dynamicSmemBytes > 227 * 1024) {
    return Failed(cudaErrorInvalidConfiguration);
  }
  return Enqueue(config.stream,
                 [grid, block, bytes = config.dynamicSmemBytes, name, thread = std::move(thread)] {
                   RunGrid(grid, block, bytes, name, thread);
                 });
}

}  // namespace trireme::cuda_emulation

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    case cudaErrorECCUncorrectable:
      return "cudaErrorECCUncorrectable";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorMisalignedAddress:
      return "cudaErrorMisalignedAddress";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorSystemDriverMismatch:
      return "cudaErrorSystemDriverMismatch";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
  }
  return "cudaErrorUnknown";
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return Failed(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= kDevices) return Failed(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated device");
  properties->totalGlobalMem = kMemoryBytes;
  properties->sharedMemPerBlockOptin = 227 * 1024;
  properties->multiProcessorCount = 132;
  properties->major = MajorOf(device);
  properties->pciBusID = device + 1;
  properties->l2CacheSize = 50 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 * 1024;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 132;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = MajorOf(device);
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int device) {
  std::snprintf(id, static_cast<size_t>(bytes), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr, int device, int peer) {
  if (device == peer) return Failed(cudaErrorInvalidDevice);
  *value = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  if (Forbidden()) return Failed(cudaErrorStreamCaptureUnsupported);
  RunStreams();
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Allocations& all = DeviceAllocations();
  const std::lock_guard lock(all.mutex);
  *free = kMemoryBytes - all.used;
  *total = kMemoryBytes;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaMalloc(void** data, size_t bytes) {
  Allocations& all = DeviceAllocations();
  const std::lock_guard lock(all.mutex);
  *data = nullptr;
  if (Forbidden()) return Failed(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  if (bytes > kMemoryBytes - all.used) return Failed(cudaErrorMemoryAllocation);
  *data = AllocatePoisoned(bytes);
  if (*data == nullptr) return Failed(cudaErrorMemoryAllocation);
  all.used += bytes;
  all.bytes[*data] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  RunStreams();
  Allocations& all = DeviceAllocations();
  const std::lock_guard lock(all.mutex);
  const auto found = all.bytes.find(data);
  if (found == all.bytes.end()) return Failed(cudaErrorInvalidValue);
  all.used -= found->second;
  all.bytes.erase(found);
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  *data = bytes == 0 ? nullptr : AllocatePoisoned(bytes);
  return bytes > 0 && *data == nullptr ? Failed(cudaErrorMemoryAllocation) : cudaSuccess;
}
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  return cudaMallocHost(data, bytes);
}
cudaError_t cudaFreeHost(void* data) {
  RunStreams();
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (Forbidden()) return Failed(cudaErrorStreamCaptureUnsupported);
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return trireme::cuda_emulation::Enqueue(stream, [=] {
    if (bytes > 0) std::memmove(to, from, bytes);
  });
}
cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  return cudaMemsetAsync(data, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  return trireme::cuda_emulation::Enqueue(stream, [=] {
    if (bytes > 0) std::memset(data, value, bytes);
  });
}
// Ranks are threads of this process: a handle is the address, and of use to no other process.
struct EmulatedIpcHandle {
  void* data;
  pid_t process;
};
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* data) {
  const EmulatedIpcHandle mine{.data = data, .process = getpid()};
  std::memcpy(handle->reserved, &mine, sizeof(mine));
  return cudaSuccess;
}
cudaError_t cudaIpcOpenMemHandle(void** data, cudaIpcMemHandle_t handle, unsigned) {
  EmulatedIpcHandle theirs;
  std::memcpy(&theirs, handle.reserved, sizeof(theirs));
  if (theirs.process != getpid()) return Failed(cudaErrorInvalidDevice);
  *data = theirs.data;
  return cudaSuccess;
}
cudaError_t cudaIpcCloseMemHandle(void*) { return cudaSuccess; }

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = std::make_unique<CudaEmulatedStream>().release();
  const std::lock_guard lock(AllStreams().mutex);
  AllStreams().all.push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreate(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::unique_ptr<CudaEmulatedStream> owned(stream);
  if (stream == nullptr) return cudaSuccess;
  stream->Run();
  const std::lock_guard lock(AllStreams().mutex);
  std::erase(AllStreams().all, stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const cudaError_t error = CheckNotCapturing(stream);
  if (error == cudaSuccess && stream != nullptr) stream->Run();
  return error;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const cudaError_t error = CheckNotCapturing(stream);
  if (error != cudaSuccess || stream == nullptr || stream->done == stream->queued) return error;
  stream->RunTo(stream->done + 1);
  return Failed(cudaErrorNotReady);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->point == nullptr) return cudaSuccess;
  return trireme::cuda_emulation::Enqueue(stream, [point = event->point] { point->Reach(); });
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->capture != nullptr) {
    return Failed(cudaErrorStreamCaptureUnsupported);
  }
  stream->capture = std::make_unique<CudaEmulatedGraph>();
  ++captures;
  stream->invalidated = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (stream == nullptr || stream->capture == nullptr) return Failed(cudaErrorInvalidValue);
  std::unique_ptr<CudaEmulatedGraph> captured = std::move(stream->capture);
  --captures;
  if (stream->invalidated) return Failed(cudaErrorStreamCaptureInvalidated);
  *graph = captured.release();
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const bool capturing = stream != nullptr && stream->capture != nullptr;
  *status = !capturing            ? cudaStreamCaptureStatusNone
            : stream->invalidated ? cudaStreamCaptureStatusInvalidated
                                  : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = std::make_unique<CudaEmulatedEvent>().release();
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return cudaEventCreate(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::unique_ptr<CudaEmulatedEvent> owned(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const auto point = std::make_shared<EmulatedPoint>();
  const cudaError_t error = trireme::cuda_emulation::Enqueue(stream, [point] {
    point->at = std::chrono::steady_clock::now();
    point->reached = true;
  });
  point->stream = stream;
  point->number = stream == nullptr ? 0 : stream->queued;
  event->point = point;
  event->asked = false;
  return error;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->point != nullptr) event->point->Reach();
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->point == nullptr || event->point->reached) return cudaSuccess;
  if (!std::exchange(event->asked, true)) return Failed(cudaErrorNotReady);
  event->point->Reach();
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  if (start->point == nullptr || end->point == nullptr) return Failed(cudaErrorInvalidValue);
  if (!start->point->reached || !end->point->reached) return Failed(cudaErrorNotReady);
  *ms = std::chrono::duration<float, std::milli>(end->point->at - start->point->at).count();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = std::make_unique<CudaEmulatedGraph>(*graph).release();
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const std::function<void()>& node : exec->nodes) {
    trireme::cuda_emulation::Enqueue(stream, node);
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const std::unique_ptr<CudaEmulatedGraph> owned(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  return bytes <= 227 * 1024 ? cudaSuccess : Failed(cudaErrorInvalidValue);
}
