#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>

#include "coordinator/engine.h"
#include "coordinator/gateway/wire.h"
#include "coordinator/loading_ranks.h"
#include "trireme/v1/loading.grpc.pb.h"

namespace trireme {

// The gRPC service that hears how far ranks are that load. Thread safe.
class LoadingService : public v1::Loading::WithRawCallbackMethod_Report<v1::Loading::Service> {
 public:
  LoadingService(LoadingRanks& loading, Engine& engine) : loading_(loading), engine_(engine) {}

  grpc::ServerUnaryReactor* Report(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override {
    v1::LoadingRank rank;
    absl::Status status = ParseMessage(*request, rank);
    v1::LoadingReported reported;
    if (status.ok()) {
      const auto heard = loading_.Report(rank, std::chrono::steady_clock::now());
      status = heard.status();
      if (heard.ok() && heard->moved) engine_.OnWorkerLoads();
      if (heard.ok()) reported.set_lost(heard->lost);
    }
    *response = SerializeMessage(reported);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }

 private:
  LoadingRanks& loading_;
  Engine& engine_;
};

}  // namespace trireme
