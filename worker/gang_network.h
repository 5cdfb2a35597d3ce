#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "parallel/backends/ucx.h"

namespace trireme {

struct GangNetworkOptions {
  UcxOptions network;       // --net-interface, --require-rdma
  std::string gang;         // --gang; empty: an MPI launcher's ranks, or a rank alone
  std::string coordinator;  // HOST:PORT
  bool mpi = false;         // started by an MPI launcher
  bool gpus = false;        // NCCL may connect the ranks
};

// Tells MPI and NCCL, by their environment variables, which network to use: to be called before
// either starts. UCX is told by JoinGang. Returns a line for the log, empty if there is nothing to
// say. INVALID_ARGUMENT: the flags mean nothing here; "unsupported: ..." for --require-rdma under
// an MPI launcher.
absl::StatusOr<std::string> PrepareGangNetwork(const GangNetworkOptions& options);

}  // namespace trireme
