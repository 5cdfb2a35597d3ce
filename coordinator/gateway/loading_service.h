#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>

#include "coordinator/gateway/wire.h"
#include "coordinator/loading_ranks.h"
#include "trireme/v1/loading.grpc.pb.h"

namespace trireme {

// The gRPC service that hears how far ranks are that load. Thread safe.
class LoadingService : public v1::Loading::WithRawCallbackMethod_Report<v1::Loading::Service> {
 public:
  explicit LoadingService(LoadingRanks& loading) : loading_(loading) {}

  grpc::ServerUnaryReactor* Report(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override {
    v1::LoadingRank rank;
    absl::Status status = ParseMessage(*request, rank);
    if (status.ok()) status = loading_.Report(rank, std::chrono::steady_clock::now());
    *response = SerializeMessage(v1::LoadingReported());
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }

 private:
  LoadingRanks& loading_;
};

}  // namespace trireme
