#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string>

namespace trireme {

// The part of NCCL's C API that NcclCommunicator uses, in types of our own with NCCL's values, so
// that it compiles and is tested without NCCL. nccl_library.h fills the table from the real one.
// What each function does, and when, is NCCL's documentation's to say; a communicator is always a
// non-blocking one: functions that return a result may return kInProgress, and then
// comm_get_async_error tells how it went.

enum class NcclResult : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};
enum class NcclDataType : int { kUint8 = 1, kFloat32 = 7 };
enum class NcclReduction : int { kSum = 0 };

struct NcclUniqueId {
  std::array<std::byte, 128> bytes{};
};

using NcclComm = void*;    // ncclComm_t
using NcclStream = void*;  // cudaStream_t

struct NcclApi {
  std::function<NcclResult(int* version)> get_version;
  std::function<NcclResult(NcclUniqueId*)> get_unique_id;
  std::function<std::string(NcclResult)> get_error_string;
  // Of this process; may be empty. `comm` may be null.
  std::function<std::string(NcclComm)> get_last_error;

  // ncclCommInitRankConfig with blocking = 0, on the calling thread's current device.
  std::function<NcclResult(NcclComm*, int ranks, const NcclUniqueId&, int rank)> comm_init;
  std::function<NcclResult(NcclComm, NcclResult* state)> comm_get_async_error;
  std::function<NcclResult(NcclComm)> comm_finalize;
  std::function<NcclResult(NcclComm)> comm_destroy;
  std::function<NcclResult(NcclComm)> comm_abort;

  std::function<NcclResult(const void* send, void* receive, size_t count, NcclDataType,
                           NcclReduction, NcclComm, NcclStream)>
      all_reduce;
  std::function<NcclResult(const void* send, void* receive, size_t count, NcclDataType, NcclComm,
                           NcclStream)>
      all_gather;
  std::function<NcclResult(const void* data, size_t count, NcclDataType, int peer, NcclComm,
                           NcclStream)>
      send;
  std::function<NcclResult(void* data, size_t count, NcclDataType, int peer, NcclComm, NcclStream)>
      receive;
};

}  // namespace trireme
