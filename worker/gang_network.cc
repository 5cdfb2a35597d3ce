#include "worker/gang_network.h"

#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "parallel/network_devices.h"
#include "parallel/network_variables.h"

namespace trireme {
namespace {

absl::Status CheckOptions(const GangNetworkOptions& options) {
  const UcxOptions& network = options.network;
  if (options.mpi && network.require_rdma) {
    return absl::InvalidArgumentError(
        "unsupported: --require-rdma under mpirun or srun, where MPI's own options choose the "
        "transport; this fails where there is no RDMA: mpirun --mca pml ucx -x "
        "UCX_TLS=rc,sm,self -x UCX_NET_DEVICES=mlx5_0:1, and for GPUs -x NCCL_NET=IB");
  }
  if (!options.mpi && options.gang.empty() &&
      (network.require_rdma || !network.net_interface.empty())) {
    return absl::InvalidArgumentError(
        "--net-interface and --require-rdma are for the ranks of a gang: with --gang, or (only "
        "--net-interface) under mpirun or srun");
  }
  return absl::OkStatus();
}

// Whether an interface that was found may be the one between MPI's hosts.
bool LeadsToOthers(const std::string& interface) {
  // Open MPI takes only one of the two.
  return InterfaceIsUp(interface) && !IsLoopbackInterface(interface) &&
         std::getenv("OMPI_MCA_btl_tcp_if_exclude") == nullptr;
}

}  // namespace

absl::StatusOr<std::string> PrepareGangNetwork(const GangNetworkOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  const std::string& asked = options.network.net_interface;
  if (options.gang.empty() && asked.empty() && !options.mpi) return "";
  // Without a route there is no coordinator to join by either, which then says so.
  const std::string interface =
      asked.empty() ? InterfaceTowards(options.coordinator).value_or("") : asked;
  if (options.mpi && asked.empty() && !LeadsToOthers(interface)) return "";
  ASSIGN_OR_RETURN(NetworkChoice choice, ChooseNetwork(interface, options.network.require_rdma));
  choice.asked = !asked.empty();
  std::vector<std::string> words;
  // MPI's TCP does not go over loopback, and between the ranks of one host it needs neither.
  if (options.mpi && !IsLoopbackInterface(interface)) {
    words.push_back(absl::StrCat("MPI between hosts: ", DescribeNetwork(choice), ": ",
                                 SetVariables(MpiVariables(choice))));
    if (!choice.asked && !choice.idle_rdma_ports.empty()) {
      words.push_back(
          absl::StrCat("RDMA where MPI chooses it: ", absl::StrJoin(choice.idle_rdma_ports, ", ")));
    }
  }
  if (options.gpus) {
    RETURN_IF_ERROR(CheckNcclEnvironment(choice));
    words.push_back(absl::StrCat("NCCL: ", SetVariables(NcclVariables(choice))));
  }
  return absl::StrJoin(words, "; ");
}

}  // namespace trireme
