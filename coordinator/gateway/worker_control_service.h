#pragma once

#include <grpcpp/grpcpp.h>

#include "coordinator/engine.h"
#include "trireme/v1/worker.grpc.pb.h"

namespace trireme {

// The workers' gRPC service: one control stream per rank, whose events go to the engine.
// Thread safe.
class WorkerControlService
    : public v1::WorkerControl::WithRawCallbackMethod_Connect<v1::WorkerControl::Service> {
 public:
  explicit WorkerControlService(Engine& engine) : engine_(engine) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Connect(
      grpc::CallbackServerContext* context) override;

 private:
  Engine& engine_;
};

}  // namespace trireme
