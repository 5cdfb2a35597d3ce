#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace trireme {

// A group of ranks that exchange what lies in the memory their Ops compute on: the host's for a
// CPU, the GPU's otherwise. Spans are addresses in that memory; the host must not read them.
//
// Every call is ordered with the work of the rank's Ops: it sees what was computed before, and what
// is computed after sees its result. A call may return before the data has moved, so memory passed
// to it stays untouched by others until the rank's work is done (Wait). Every rank of the group
// makes the same collective calls in the same order. Not thread safe; on a GPU the calling thread's
// current device is the rank's.
//
// Errors: UNAVAILABLE if a peer is gone or the wires failed, INVALID_ARGUMENT for sizes or ranks
// that cannot be. After an error the communicator is of no further use: every call returns an
// error, and the ranks may make a new one.
class DeviceCommunicator {
 public:
  virtual ~DeviceCommunicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string_view name() const = 0;  // "nccl", "staged loopback", "mpi"
  // True if calls can be captured in a CUDA graph, whose replays make them again.
  virtual bool capturable() const = 0;

  // Sums element by element, in place; all ranks get the same bits. Over a Communicator the order
  // is the one tree of docs/decisions/0001, and size() a power of two.
  virtual absl::Status AllReduceSum(std::span<float> data) = 0;
  // `all` holds size() blocks of mine.size() bytes, in rank order.
  virtual absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;
  // Point to point with another rank, in order. Sizes must agree.
  virtual absl::Status Send(std::span<const std::byte> data, int destination) = 0;
  virtual absl::Status Recv(std::span<std::byte> data, int source) = 0;

  // Errors of earlier calls that showed only later. Cheap; to be asked once a step at least.
  virtual absl::Status Check() = 0;
  // Waits until `done` says that the rank's work is done, watching for errors: work that waits for
  // a lost peer would never be done. Use it instead of any unbounded wait for the device.
  virtual absl::Status Wait(const std::function<absl::StatusOr<bool>()>& done);
};

// Copies between the rank's device and the host, ordered with the work of the rank's Ops. Both
// return when the copy is done. Sizes are equal.
class HostCopies {
 public:
  virtual ~HostCopies() = default;
  virtual absl::Status CopyOut(std::span<const std::byte> device, std::span<std::byte> host) = 0;
  virtual absl::Status CopyIn(std::span<const std::byte> host, std::span<std::byte> device) = 0;
};

// For ranks that compute on the host: `host` as it is, no copies. `host` outlives the result.
std::unique_ptr<DeviceCommunicator> MakeHostDeviceCommunicator(Communicator* host);

// For devices whose memory other ranks cannot reach: data goes through host memory and `host`.
// Correct everywhere, also where ranks share a GPU; slow, as every call waits for the device. Both
// arguments outlive the result.
std::unique_ptr<DeviceCommunicator> MakeStagedCommunicator(Communicator* host, HostCopies* copies);

}  // namespace trireme
