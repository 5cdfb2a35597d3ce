#pragma once

#include <grpcpp/grpcpp.h>

#include "coordinator/engine.h"
#include "trireme/v1/cluster.grpc.pb.h"

namespace trireme {

// The operator's gRPC service. Thread safe.
class ClusterService : public v1::Cluster::CallbackService {
 public:
  explicit ClusterService(const Engine& engine) : engine_(engine) {}

  grpc::ServerUnaryReactor* ListRanks(grpc::CallbackServerContext* context,
                                      const v1::ListRanksRequest*,
                                      v1::ListRanksResponse* response) override {
    *response = engine_.Describe();
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

 private:
  const Engine& engine_;
};

}  // namespace trireme
