#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace trireme {

struct UcxOptions {
  // The network interface ("eth0", "ib0") or RDMA port ("mlx5_0:1") that carries the data; empty:
  // UCX's choice. Also between ranks of one host: UCX's shared memory cannot tell that a peer has
  // ended.
  std::string net_interface = {};
  bool require_rdma = false;  // an error instead of TCP where there is no RDMA device
  // Connecting to all peers.
  std::chrono::milliseconds connect_timeout{60'000};
  // Waiting for a peer that is connected but silent. A peer that has ended is noticed at once.
  std::chrono::milliseconds wait_timeout{600'000};
  // Waiting for the others at an orderly end.
  std::chrono::milliseconds close_timeout{2'000};
};

// One rank's side of a group over UCX that is not formed yet. Its address goes to the peers by
// other means (the coordinator's rendezvous). Destroyed unused, it leaves nothing behind.
class UcxPort {
 public:
  virtual ~UcxPort() = default;

  virtual const std::string& address() const = 0;  // bytes, some hundred
  virtual std::string Description() const = 0;     // "network interface eth0 (10000 Mbit/s), ..."

  // Connects to the ranks whose addresses these are, in rank order; addresses[rank] is our own.
  // Collective, once. UNAVAILABLE names a peer that does not connect in time. The communicator
  // outlives the port. A rank that stops must destroy its communicators, or exit: peers waiting on
  // it then get UNAVAILABLE.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Connect(
      int rank, std::span<const std::string> addresses) = 0;
};

// INVALID_ARGUMENT: no such interface. FAILED_PRECONDITION: RDMA is required but missing.
// UNIMPLEMENTED ("unsupported: ..."): this build has no UCX.
absl::StatusOr<std::unique_ptr<UcxPort>> OpenUcxPort(const UcxOptions& options);

}  // namespace trireme
