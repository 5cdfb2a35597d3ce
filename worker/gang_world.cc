#include "worker/gang_world.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "parallel/network_devices.h"
#include "parallel/network_variables.h"
#include "trireme/v1/rendezvous.grpc.pb.h"
#include "worker/coordinator_channel.h"

namespace trireme {
namespace {

// Counts the ranks of this host, before this one and all.
absl::StatusOr<GangWorld> MakeWorld(std::unique_ptr<Communicator> ranks) {
  struct Host {
    char name[256];
  };
  Host mine{};
  HostName().copy(mine.name, sizeof(mine.name) - 1);
  std::vector<Host> all(static_cast<size_t>(ranks->size()));
  RETURN_IF_ERROR(
      ranks->AllGather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all))));
  GangWorld world;
  for (int rank = 0; rank < ranks->size(); ++rank) {
    const Host& host = all[static_cast<size_t>(rank)];
    world.hosts.emplace_back(host.name, strnlen(host.name, sizeof(host.name)));
    if (world.hosts.back() != mine.name) continue;
    if (rank < ranks->rank()) ++world.local_rank;
    ++world.local_size;
  }
  world.ranks = std::move(ranks);
  return world;
}

v1::JoinRequest MakeRequest(const JoinOptions& options, const UcxPort& port) {
  v1::JoinRequest request;
  request.set_gang(options.gang);
  request.set_world_size(
      static_cast<uint32_t>(std::clamp<int64_t>(options.world_size, 0, UINT32_MAX)));
  if (options.rank.has_value()) request.set_rank(static_cast<uint32_t>(*options.rank));
  request.set_host(HostName());
  request.set_address(port.address());
  for (const v1::Setting& setting : options.settings) *request.add_settings() = setting;
  return request;
}

absl::StatusOr<v1::JoinResponse> CallJoin(const JoinOptions& options, const UcxPort& port) {
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                   ConnectCoordinator(options.coordinator, options.connect_timeout));
  const auto stub = v1::Rendezvous::NewStub(channel);
  LogInfo(absl::StrCat("waiting for all ", options.world_size, " ranks of gang ", options.gang));
  grpc::ClientContext context;
  v1::JoinResponse response;
  const grpc::Status status = stub->Join(&context, MakeRequest(options, port), &response);
  if (!status.ok()) {
    return absl::Status(
        static_cast<absl::StatusCode>(status.error_code()),
        absl::StrCat("coordinator ", options.coordinator, ": ", status.error_message()));
  }
  if (response.members_size() != options.world_size ||
      static_cast<int64_t>(response.rank()) >= options.world_size) {
    return absl::InternalError(absl::StrCat("coordinator ", options.coordinator, " made rank ",
                                            response.rank(), " of ", response.members_size(),
                                            " in a gang of ", options.world_size));
  }
  return response;
}

// Loopback leads nowhere but to this host.
absl::Status CheckInterface(const v1::JoinResponse& gang, const std::string& interface) {
  if (!IsLoopbackInterface(interface)) return absl::OkStatus();
  const std::string& mine = gang.members(static_cast<int>(gang.rank())).host();
  for (const v1::Member& member : gang.members()) {
    if (member.host() == mine) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "hosts ", mine, " and ", member.host(), " form the gang, but rank ", gang.rank(),
        " uses the loopback interface ", interface,
        "; give --coordinator an address that every host reaches, or set --net-interface"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GangWorld> JoinMpiWorld(int* argc, char*** argv) {
  ASSIGN_OR_RETURN(std::unique_ptr<Communicator> ranks, MakeMpiCommunicator(argc, argv));
  return MakeWorld(std::move(ranks));
}

absl::StatusOr<GangWorld> SingleRankWorld() {
  return MakeWorld(std::move(MakeLoopbackCommunicators(1).front()));
}

absl::StatusOr<GangWorld> JoinGang(const JoinOptions& options) {
  UcxOptions network = options.network;
  if (network.net_interface.empty()) {
    ASSIGN_OR_RETURN(network.net_interface, InterfaceTowards(options.coordinator));
    ASSIGN_OR_RETURN(const NetworkChoice choice,
                     ChooseNetwork(network.net_interface, network.require_rdma));
    if (const std::string warning = WarnOfIdleRdma(choice); !warning.empty()) LogWarning(warning);
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<UcxPort> port, OpenUcxPort(network));
  ASSIGN_OR_RETURN(const v1::JoinResponse gang, CallJoin(options, *port));
  RETURN_IF_ERROR(CheckInterface(gang, network.net_interface));

  const int rank = static_cast<int>(gang.rank());
  std::vector<std::string> addresses;
  for (const v1::Member& member : gang.members()) addresses.push_back(member.address());
  ASSIGN_OR_RETURN(std::unique_ptr<Communicator> ranks, port->Connect(rank, addresses));
  ASSIGN_OR_RETURN(GangWorld world, MakeWorld(std::move(ranks)));
  LogInfo(absl::StrCat("gang ", options.gang, ", incarnation ", gang.incarnation(), ": rank ", rank,
                       " of ", addresses.size(), ", ", world.local_rank, " of ", world.local_size,
                       " on ", gang.members(rank).host(),
                       "; between hosts: ", port->Description()));
  return world;
}

}  // namespace trireme
