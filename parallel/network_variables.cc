#include "parallel/network_variables.h"

#include <cstdlib>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "parallel/network_devices.h"

namespace trireme {

absl::StatusOr<NetworkChoice> ChooseNetwork(const std::string& net_interface, bool require_rdma) {
  NetworkChoice choice{.rdma_ports = RdmaPorts(net_interface),
                       .asked = !net_interface.empty(),
                       .require_rdma = require_rdma};
  for (const std::string& port : RdmaPorts("")) {
    if (!absl::c_linear_search(choice.rdma_ports, port)) choice.idle_rdma_ports.push_back(port);
  }
  if (InterfaceIsUp(net_interface)) {
    choice.interface = net_interface;
  } else if (choice.asked && choice.rdma_ports.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--net-interface ", net_interface,
                                                   ": this host has no such interface that is up, "
                                                   "nor such an RDMA port; see ip link, ibstat"));
  }
  if (require_rdma && choice.rdma_ports.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--require-rdma: this host has no active RDMA port",
                     choice.asked ? absl::StrCat(" at ", net_interface) : "",
                     choice.idle_rdma_ports.empty()
                         ? "; check ibstat, or leave the flag out to use TCP"
                         : absl::StrCat(", but ", absl::StrJoin(choice.idle_rdma_ports, ", "),
                                        ": name one with --net-interface")));
  }
  return choice;
}

std::string WarnOfIdleRdma(const NetworkChoice& choice) {
  if (choice.idle_rdma_ports.empty()) return "";
  return absl::StrCat("RDMA ports lie idle: ", absl::StrJoin(choice.idle_rdma_ports, ", "),
                      ", while ", choice.interface,
                      " leads to the coordinator; name one with --net-interface");
}

std::string DescribeNetwork(const NetworkChoice& choice) {
  // Where a port was named there is nothing beside it.
  const bool only_rdma = choice.require_rdma || (choice.asked && choice.interface.empty());
  std::string text = "TCP";
  if (!choice.rdma_ports.empty()) {
    text = absl::StrCat("RDMA ", absl::StrJoin(choice.rdma_ports, ","), only_rdma ? "" : " or TCP");
  }
  if (only_rdma || choice.interface.empty()) return text;
  return absl::StrCat(text, " at ", choice.interface, ", ", LinkSpeed(choice.interface));
}

std::vector<EnvironmentVariable> NcclVariables(const NetworkChoice& choice) {
  std::vector<EnvironmentVariable> variables;
  // "=": that name, not all that begin with it.
  if (!choice.interface.empty()) {
    variables.push_back({"NCCL_SOCKET_IFNAME", absl::StrCat("=", choice.interface)});
  }
  if (choice.asked || choice.require_rdma) {
    if (!choice.rdma_ports.empty()) {
      variables.push_back(
          {"NCCL_IB_HCA", absl::StrCat("=", absl::StrJoin(choice.rdma_ports, ","))});
    } else if (!choice.require_rdma) {
      variables.push_back({"NCCL_IB_DISABLE", "1"});
    }
  }
  if (choice.require_rdma) variables.push_back({"NCCL_NET", "IB"});
  return variables;
}

std::vector<EnvironmentVariable> MpiVariables(const NetworkChoice& choice) {
  std::vector<EnvironmentVariable> variables;
  std::vector<std::string> devices = choice.rdma_ports;
  if (!choice.interface.empty()) {
    variables.push_back({"OMPI_MCA_btl_tcp_if_include", choice.interface});
    devices.insert(devices.begin(), choice.interface);
  }
  const bool others = !choice.asked && !choice.idle_rdma_ports.empty();
  if (!devices.empty() && !others)
    variables.push_back({"UCX_NET_DEVICES", absl::StrJoin(devices, ",")});
  return variables;
}

absl::Status CheckNcclEnvironment(const NetworkChoice& choice) {
  if (!choice.require_rdma) return absl::OkStatus();
  const auto value = [](const char* name) {
    const char* set = std::getenv(name);
    return std::string(set == nullptr ? "" : set);
  };
  if (absl::EqualsIgnoreCase(value("NCCL_NET"), "Socket")) {
    return absl::InvalidArgumentError("--require-rdma contradicts NCCL_NET=Socket");
  }
  if (const std::string disable = value("NCCL_IB_DISABLE"); !disable.empty() && disable != "0") {
    return absl::InvalidArgumentError(
        absl::StrCat("--require-rdma contradicts NCCL_IB_DISABLE=", disable));
  }
  return absl::OkStatus();
}

std::string SetVariables(const std::vector<EnvironmentVariable>& variables) {
  std::vector<std::string> words;
  for (const EnvironmentVariable& variable : variables) {
    const char* before = std::getenv(variable.name.c_str());
    if (before == nullptr) setenv(variable.name.c_str(), variable.value.c_str(), 0);
    words.push_back(absl::StrCat(variable.name, "=", before == nullptr ? variable.value : before,
                                 before == nullptr ? "" : " (as set before)"));
  }
  return absl::StrJoin(words, ", ");
}

}  // namespace trireme
