#include "parallel/backends/nccl_library.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

constexpr bool Same(NcclResult ours, ncclResult_t theirs) {
  return static_cast<int>(ours) == static_cast<int>(theirs);
}
static_assert(Same(NcclResult::kSuccess, ncclSuccess));
static_assert(Same(NcclResult::kUnhandledCudaError, ncclUnhandledCudaError));
static_assert(Same(NcclResult::kSystemError, ncclSystemError));
static_assert(Same(NcclResult::kInternalError, ncclInternalError));
static_assert(Same(NcclResult::kInvalidArgument, ncclInvalidArgument));
static_assert(Same(NcclResult::kInvalidUsage, ncclInvalidUsage));
static_assert(Same(NcclResult::kRemoteError, ncclRemoteError));
static_assert(Same(NcclResult::kInProgress, ncclInProgress));
static_assert(static_cast<int>(NcclDataType::kUint8) == ncclUint8);
static_assert(static_cast<int>(NcclDataType::kFloat32) == ncclFloat32);
static_assert(static_cast<int>(NcclReduction::kSum) == ncclSum);
static_assert(sizeof(NcclUniqueId) == sizeof(ncclUniqueId));
static_assert(NCCL_VERSION_CODE >= NCCL_VERSION(2, 14, 0), "communicators that do not block");

NcclResult Ours(ncclResult_t result) { return static_cast<NcclResult>(result); }
ncclComm_t Theirs(NcclComm comm) { return static_cast<ncclComm_t>(comm); }
cudaStream_t Stream(NcclStream stream) { return static_cast<cudaStream_t>(stream); }
ncclDataType_t Theirs(NcclDataType type) { return static_cast<ncclDataType_t>(type); }
ncclRedOp_t Theirs(NcclReduction op) { return static_cast<ncclRedOp_t>(op); }

NcclResult GetUniqueId(NcclUniqueId* id) {
  ncclUniqueId theirs;
  const ncclResult_t result = ncclGetUniqueId(&theirs);
  std::memcpy(id->bytes.data(), &theirs, sizeof(theirs));
  return Ours(result);
}

NcclResult Init(NcclComm* comm, int ranks, const NcclUniqueId& id, int rank) {
  ncclUniqueId theirs;
  std::memcpy(&theirs, id.bytes.data(), sizeof(theirs));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t made = nullptr;
  const ncclResult_t result = ncclCommInitRankConfig(&made, ranks, theirs, rank, &config);
  *comm = made;
  return Ours(result);
}

NcclResult GetAsyncError(NcclComm comm, NcclResult* state) {
  ncclResult_t theirs = ncclSuccess;
  const ncclResult_t result = ncclCommGetAsyncError(Theirs(comm), &theirs);
  *state = Ours(theirs);
  return Ours(result);
}

std::string HostName() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

// Containers have names of their own, but the kernel's boot is the machine's.
std::string MachineId() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id.empty() ? HostName() : id;
}

}  // namespace

NcclApi NcclLibrary() {
  NcclApi api;
  api.get_version = [](int* version) { return Ours(ncclGetVersion(version)); };
  api.get_unique_id = GetUniqueId;
  api.get_error_string = [](NcclResult result) -> std::string {
    return ncclGetErrorString(static_cast<ncclResult_t>(result));
  };
  api.get_last_error = [](NcclComm comm) -> std::string {
    const char* text = ncclGetLastError(Theirs(comm));
    return text == nullptr ? "" : text;
  };
  api.comm_init = Init;
  api.comm_get_async_error = GetAsyncError;
  api.comm_finalize = [](NcclComm comm) { return Ours(ncclCommFinalize(Theirs(comm))); };
  api.comm_destroy = [](NcclComm comm) { return Ours(ncclCommDestroy(Theirs(comm))); };
  api.comm_abort = [](NcclComm comm) { return Ours(ncclCommAbort(Theirs(comm))); };
  api.all_reduce = [](const void* send, void* receive, size_t count, NcclDataType type,
                      NcclReduction reduction, NcclComm comm, NcclStream stream) {
    return Ours(ncclAllReduce(send, receive, count, Theirs(type), Theirs(reduction), Theirs(comm),
                              Stream(stream)));
  };
  api.all_gather = [](const void* send, void* receive, size_t count, NcclDataType type,
                      NcclComm comm, NcclStream stream) {
    return Ours(ncclAllGather(send, receive, count, Theirs(type), Theirs(comm), Stream(stream)));
  };
  api.send = [](const void* data, size_t count, NcclDataType type, int peer, NcclComm comm,
                NcclStream stream) {
    return Ours(ncclSend(data, count, Theirs(type), peer, Theirs(comm), Stream(stream)));
  };
  api.receive = [](void* data, size_t count, NcclDataType type, int peer, NcclComm comm,
                   NcclStream stream) {
    return Ours(ncclRecv(data, count, Theirs(type), peer, Theirs(comm), Stream(stream)));
  };
  return api;
}

absl::StatusOr<NcclPlace> FindNcclPlace(NcclStream stream) {
  int device = 0;
  std::array<char, 32> bus_id{};
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()), device);
  }
  if (error != cudaSuccess) {
    return absl::UnavailableError(
        absl::StrCat("nccl: no CUDA device: ", cudaGetErrorString(error),
                     "; see that nvidia-smi lists the GPU and CUDA_VISIBLE_DEVICES does not hide "
                     "it, or use --device cpu"));
  }
  return NcclPlace{
      .host = HostName(), .machine_id = MachineId(), .pci_bus_id = bus_id.data(), .stream = stream};
}

}  // namespace trireme
