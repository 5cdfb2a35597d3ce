#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/cordoned_hosts.h"
#include "coordinator/engine.h"
#include "coordinator/gateway/rendezvous_service.h"
#include "coordinator/gateway/wire.h"
#include "coordinator/loading_ranks.h"
#include "trireme/v1/cluster.grpc.pb.h"

namespace trireme {

// All of whose calls get bytes (coordinator/gateway/wire.h).
using RawClusterService = v1::Cluster::WithRawCallbackMethod_ListRanks<
    v1::Cluster::WithRawCallbackMethod_GetStats<v1::Cluster::WithRawCallbackMethod_Drain<
        v1::Cluster::WithRawCallbackMethod_Uncordon<v1::Cluster::Service>>>>;

// The operator's gRPC service. Thread safe.
class ClusterService : public RawClusterService {
 public:
  ClusterService(Engine& engine, CordonedHosts& cordoned, LoadingRanks& loading,
                 RendezvousService& rendezvous)
      : engine_(engine), cordoned_(cordoned), loading_(loading), rendezvous_(rendezvous) {}

  grpc::ServerUnaryReactor* ListRanks(grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* request,
                                      grpc::ByteBuffer* response) override {
    v1::ListRanksRequest list;
    return Answer(context, ParseMessage(*request, list), [&] {
      *response = SerializeMessage(Describe());
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    v1::GetStatsRequest stats;
    return Answer(context, ParseMessage(*request, stats), [&] {
      *response = SerializeMessage(engine_.Stats());
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    v1::DrainRequest drain;
    absl::Status status = ParseMessage(*request, drain);
    v1::DrainResponse drained;
    if (status.ok() && drain.has_host()) {
      const std::set<std::string> hosts = HostsOf(Describe());
      status = cordoned_.Cordon(drain.host(), hosts.contains(drain.host()));
      drained.set_host_unknown(!cordoned_.IsKnown(drain.host()));
      if (drained.host_unknown()) drained.mutable_hosts()->Assign(hosts.begin(), hosts.end());
    }
    const auto answer = [=](const std::vector<uint64_t>& epochs) mutable {
      for (const uint64_t epoch : epochs) drained.add_epochs(epoch);
      *response = SerializeMessage(drained);
      reactor->Finish(grpc::Status::OK);
    };
    if (status.ok() && drain.target_case() == v1::DrainRequest::TARGET_NOT_SET) {
      status = absl::InvalidArgumentError("a drain names a host or the epoch of a gang");
    }
    if (!status.ok()) {
      reactor->Finish(ToGrpcStatus(status));
    } else if (drain.has_host()) {
      engine_.DrainHost(drain.host(), answer);
    } else {
      engine_.DrainGang(drain.epoch(), answer);
    }
    return reactor;
  }

  grpc::ServerUnaryReactor* Uncordon(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    v1::UncordonRequest uncordon;
    return Answer(context, ParseMessage(*request, uncordon), [&] {
      *response = SerializeMessage(v1::UncordonResponse());
      return cordoned_.Uncordon(uncordon.host());
    });
  }

 private:
  v1::ListRanksResponse Describe() {
    v1::ListRanksResponse ranks = engine_.Describe();
    for (std::string& host : cordoned_.List()) ranks.add_cordoned_hosts(std::move(host));
    for (v1::LoadingRank& rank : loading_.List(ranks, std::chrono::steady_clock::now())) {
      *ranks.add_loading() = std::move(rank);
    }
    for (v1::WaitingGang& gang : rendezvous_.List()) *ranks.add_waiting() = std::move(gang);
    return ranks;
  }

  // Where ranks serve, load or wait for others.
  static std::set<std::string> HostsOf(const v1::ListRanksResponse& ranks) {
    std::set<std::string> hosts;
    for (const v1::Gang& gang : ranks.gangs()) {
      for (const v1::RankInfo& rank : gang.ranks()) hosts.insert(rank.host());
    }
    for (const v1::LoadingRank& rank : ranks.loading()) hosts.insert(rank.host());
    for (const v1::WaitingGang& gang : ranks.waiting()) {
      hosts.insert(gang.hosts().begin(), gang.hosts().end());
    }
    return hosts;
  }

  // Ends a call with what is wrong with its request or else with what `handle` makes of it.
  template <typename Handle>
  static grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, absl::Status status,
                                          const Handle& handle) {
    if (status.ok()) status = handle();
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }

  Engine& engine_;
  CordonedHosts& cordoned_;
  LoadingRanks& loading_;
  RendezvousService& rendezvous_;
};

}  // namespace trireme
