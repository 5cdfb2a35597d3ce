#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/backends/nccl_api.h"
#include "parallel/communicator.h"
#include "parallel/device_communicator.h"

namespace trireme {

// Where a rank computes.
struct NcclPlace {
  std::string host;             // the machine's name, for messages
  std::string machine_id;       // the same on all of a machine's containers, on no other machine
  std::string pci_bus_id;       // of the GPU, "0000:1b:00.0"
  NcclStream stream = nullptr;  // the stream of the rank's work, on the current device
};

struct NcclOptions {
  // Forming the group, and setting up a connection at its first use.
  std::chrono::milliseconds connect_timeout{120'000};
  // Wait: how long a step's work may take.
  std::chrono::milliseconds work_timeout{60'000};
  // Leaving in an orderly way, before it is forced.
  std::chrono::milliseconds close_timeout{10'000};
  // The clock; tests have their own.
  std::function<std::chrono::steady_clock::time_point()> now;
  std::function<void(std::chrono::microseconds)> sleep;
};

// The ranks of `host`, each with a GPU of its own, over NCCL. Collective. `host` carries what the
// ranks have to agree on first and is not used once this returns. All ranks succeed or all fail, in
// bounded time, with the reason of the rank that has one. INVALID_ARGUMENT: ranks share a GPU, or
// their NCCL versions differ. UNAVAILABLE: NCCL could not connect them.
//
// The communicator does not wait for its collectives: Check and Wait notice what happens to them.
// Any error aborts it, which ends its kernels on the device, so that the stream drains; its calls
// then return that first error. The ranks may destroy it and make a new one.
//
// Calls may set up connections at their first use, so before a graph is captured each kind of call
// is made once. Graphs that hold calls of the communicator are destroyed before it: NCCL lets go of
// it only then. NCCL starts a thread for each call on a communicator that does not block; a
// replayed graph does not pay for that.
//
// AllReduceSum adds in an order of NCCL's choice: the same on all ranks and in every run of one
// layout and size, but not the order of docs/decisions/0001.
absl::StatusOr<std::unique_ptr<DeviceCommunicator>> MakeNcclCommunicator(NcclApi api,
                                                                         const NcclPlace& place,
                                                                         NcclOptions options,
                                                                         Communicator& host);

}  // namespace trireme
