#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>
#include <vector>

#include "coordinator/cordoned_hosts.h"
#include "coordinator/engine.h"
#include "coordinator/gateway/wire.h"
#include "trireme/v1/cluster.grpc.pb.h"

namespace trireme {

// The operator's gRPC service. Thread safe.
class ClusterService : public v1::Cluster::CallbackService {
 public:
  ClusterService(Engine& engine, CordonedHosts& cordoned) : engine_(engine), cordoned_(cordoned) {}

  grpc::ServerUnaryReactor* ListRanks(grpc::CallbackServerContext* context,
                                      const v1::ListRanksRequest*,
                                      v1::ListRanksResponse* response) override {
    *response = engine_.Describe();
    for (std::string& host : cordoned_.List()) response->add_cordoned_hosts(std::move(host));
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const v1::GetStatsRequest*,
                                     v1::GetStatsResponse* response) override {
    *response = engine_.Stats();
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const auto answer = [=](const std::vector<uint64_t>& epochs) {
      for (const uint64_t epoch : epochs) response->add_epochs(epoch);
      reactor->Finish(grpc::Status::OK);
    };
    switch (request->target_case()) {
      case v1::DrainRequest::kHost: {
        const absl::Status status = cordoned_.Cordon(request->host());
        if (status.ok()) {
          engine_.DrainHost(request->host(), answer);
        } else {
          reactor->Finish(ToGrpcStatus(status));
        }
        break;
      }
      case v1::DrainRequest::kEpoch:
        engine_.DrainGang(request->epoch(), answer);
        break;
      case v1::DrainRequest::TARGET_NOT_SET:
        reactor->Finish(
            {grpc::StatusCode::INVALID_ARGUMENT, "a drain names a host or the epoch of a gang"});
        break;
    }
    return reactor;
  }

  grpc::ServerUnaryReactor* Uncordon(grpc::CallbackServerContext* context,
                                     const v1::UncordonRequest* request,
                                     v1::UncordonResponse*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(cordoned_.Uncordon(request->host())));
    return reactor;
  }

 private:
  Engine& engine_;
  CordonedHosts& cordoned_;
};

}  // namespace trireme
