#include "parallel/backends/nccl_library.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>

#include <cstring>
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

// The functions by the names of nccl.h.
struct Library {
  void* handle = nullptr;
  std::string missing;  // the first that the library does not have

  // F: the type of the function in nccl.h.
  template <class F>
  F* Find(const char* name) {
    void* const found = dlsym(handle, name);
    if (found == nullptr && missing.empty()) missing = name;
    return reinterpret_cast<F*>(found);
  }
};

template <class GetUniqueId>
NcclResult MakeUniqueId(GetUniqueId get_unique_id, NcclUniqueId* id) {
  ncclUniqueId theirs;
  const ncclResult_t result = get_unique_id(&theirs);
  std::memcpy(id->bytes.data(), &theirs, sizeof(theirs));
  return Ours(result);
}

template <class InitRank>
NcclResult Init(InitRank init_rank, NcclComm* comm, int ranks, const NcclUniqueId& id, int rank) {
  ncclUniqueId theirs;
  std::memcpy(&theirs, id.bytes.data(), sizeof(theirs));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t made = nullptr;
  const ncclResult_t result = init_rank(&made, ranks, theirs, rank, &config);
  *comm = made;
  return Ours(result);
}

void FillGroupCalls(Library& library, NcclApi& api) {
  api.comm_init = [f = library.Find<decltype(ncclCommInitRankConfig)>("ncclCommInitRankConfig")](
                      NcclComm* comm, int ranks, const NcclUniqueId& id, int rank) {
    return Init(f, comm, ranks, id, rank);
  };
  api.comm_get_async_error = [f = library.Find<decltype(ncclCommGetAsyncError)>(
                                  "ncclCommGetAsyncError")](NcclComm comm, NcclResult* state) {
    ncclResult_t theirs = ncclSuccess;
    const ncclResult_t result = f(Theirs(comm), &theirs);
    *state = Ours(theirs);
    return Ours(result);
  };
  api.comm_finalize = [f = library.Find<decltype(ncclCommFinalize)>("ncclCommFinalize")](
                          NcclComm comm) { return Ours(f(Theirs(comm))); };
  api.comm_destroy = [f = library.Find<decltype(ncclCommDestroy)>("ncclCommDestroy")](
                         NcclComm comm) { return Ours(f(Theirs(comm))); };
  api.comm_abort = [f = library.Find<decltype(ncclCommAbort)>("ncclCommAbort")](NcclComm comm) {
    return Ours(f(Theirs(comm)));
  };
}

void FillTransfers(Library& library, NcclApi& api) {
  api.all_reduce = [f = library.Find<decltype(ncclAllReduce)>("ncclAllReduce")](
                       const void* send, void* receive, size_t count, NcclDataType type,
                       NcclReduction reduction, NcclComm comm, NcclStream stream) {
    return Ours(
        f(send, receive, count, Theirs(type), Theirs(reduction), Theirs(comm), Stream(stream)));
  };
  api.all_gather = [f = library.Find<decltype(ncclAllGather)>("ncclAllGather")](
                       const void* send, void* receive, size_t count, NcclDataType type,
                       NcclComm comm, NcclStream stream) {
    return Ours(f(send, receive, count, Theirs(type), Theirs(comm), Stream(stream)));
  };
  api.send = [f = library.Find<decltype(ncclSend)>("ncclSend")](const void* data, size_t count,
                                                                NcclDataType type, int peer,
                                                                NcclComm comm, NcclStream stream) {
    return Ours(f(data, count, Theirs(type), peer, Theirs(comm), Stream(stream)));
  };
  api.receive = [f = library.Find<decltype(ncclRecv)>("ncclRecv")](
                    void* data, size_t count, NcclDataType type, int peer, NcclComm comm,
                    NcclStream stream) {
    return Ours(f(data, count, Theirs(type), peer, Theirs(comm), Stream(stream)));
  };
}

}  // namespace

absl::StatusOr<NcclApi> LoadNccl() {
  Library library;
  // Stays loaded: its threads and its functions in the table have no end that we could know.
  library.handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library.handle == nullptr) {
    const char* why = dlerror();
    return absl::FailedPreconditionError(
        absl::StrCat("NCCL cannot be loaded: ", why == nullptr ? "libnccl.so.2" : why,
                     "; install it (package libnccl2), or name its folder in LD_LIBRARY_PATH"));
  }
  NcclApi api;
  api.get_version = [f = library.Find<decltype(ncclGetVersion)>("ncclGetVersion")](int* version) {
    return Ours(f(version));
  };
  api.get_unique_id = [f = library.Find<decltype(ncclGetUniqueId)>("ncclGetUniqueId")](
                          NcclUniqueId* id) { return MakeUniqueId(f, id); };
  api.get_error_string = [f = library.Find<decltype(ncclGetErrorString)>("ncclGetErrorString")](
                             NcclResult result) -> std::string {
    return f(static_cast<ncclResult_t>(result));
  };
  api.get_last_error = [f = library.Find<decltype(ncclGetLastError)>("ncclGetLastError")](
                           NcclComm comm) -> std::string {
    const char* text = f(Theirs(comm));
    return text == nullptr ? "" : text;
  };
  FillGroupCalls(library, api);
  FillTransfers(library, api);
  if (library.missing.empty()) return api;
  return absl::FailedPreconditionError(
      absl::StrCat("the NCCL of this machine has no ", library.missing, "; install 2.14 or newer"));
}

}  // namespace trireme
