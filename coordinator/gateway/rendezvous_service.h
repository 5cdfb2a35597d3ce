#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "coordinator/cordoned_hosts.h"
#include "coordinator/rendezvous.h"
#include "trireme/v1/rendezvous.grpc.pb.h"

namespace trireme {

// The gRPC service with which workers form gangs: calls wait here for their Rendezvous. Thread
// safe.
class RendezvousService
    : public v1::Rendezvous::WithRawCallbackMethod_Join<v1::Rendezvous::Service> {
 public:
  explicit RendezvousService(CordonedHosts& cordoned) : cordoned_(cordoned) {}

  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response) override;

  std::vector<v1::WaitingGang> List();

  // Ends the calls that wait, and those to come, with UNAVAILABLE and this reason.
  void Stop(const std::string& reason);

 private:
  class Call;

  void Enter(Call& call, const v1::JoinRequest& request);
  void Leave(Call& call);

  CordonedHosts& cordoned_;
  std::mutex mutex_;
  Rendezvous rendezvous_;
  std::map<uint64_t, Call*> waiting_;  // not answered yet
  uint64_t last_id_ = 0;
  std::string stopped_;  // why; empty: it runs
};

}  // namespace trireme
