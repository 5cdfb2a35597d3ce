#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace trireme {

// The network that a rank's --net-interface and --require-rdma mean on this host.
struct NetworkChoice {
  std::string interface = {};                // "eth0"; empty: unknown, or an RDMA port was named
  std::vector<std::string> rdma_ports = {};  // "mlx5_0:1": those of the interface, or the one named
  // Active ones elsewhere.
  std::vector<std::string> idle_rdma_ports = {};
  bool asked = false;  // the interface or port was named, not found
  bool require_rdma = false;
};

// INVALID_ARGUMENT: --net-interface is neither an interface that is up nor an active RDMA port.
// FAILED_PRECONDITION: RDMA is required but missing.
absl::StatusOr<NetworkChoice> ChooseNetwork(const std::string& net_interface, bool require_rdma);

// Of RDMA ports that are not used, as nobody has named one; empty if there are none.
std::string WarnOfIdleRdma(const NetworkChoice& choice);

// "TCP at eth0, 10000 Mbit/s", "RDMA mlx5_0:1 or TCP at ib0, speed unknown".
std::string DescribeNetwork(const NetworkChoice& choice);

struct EnvironmentVariable {
  std::string name;
  std::string value;
};

// What holds NCCL to this network; it reads them when it is loaded. An interface that was found,
// not asked for, carries NCCL's sockets but leaves it its InfiniBand adapters, which may well be at
// another one. With RDMA required NCCL has its IB transport or fails.
std::vector<EnvironmentVariable> NcclVariables(const NetworkChoice& choice);

// What holds Open MPI's TCP, and UCX below it, to this network; MPI_Init reads them. Where the
// interface was found, not asked for, UCX keeps the RDMA ports that are elsewhere. Memory that the
// ranks of one host share is no network.
std::vector<EnvironmentVariable> MpiVariables(const NetworkChoice& choice);

// INVALID_ARGUMENT: RDMA is required, but the environment's NCCL_NET or NCCL_IB_DISABLE forbids it.
absl::Status CheckNcclEnvironment(const NetworkChoice& choice);

// Sets those that the environment does not have: what the user has set stays. Returns a line for
// the log, "NCCL_NET=IB, NCCL_IB_HCA=... (as set before)". Before there are other threads that read
// the environment.
std::string SetVariables(const std::vector<EnvironmentVariable>& variables);

}  // namespace trireme
