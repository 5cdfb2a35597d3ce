#include "coordinator/gateway/rendezvous_service.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "coordinator/gateway/wire.h"

namespace trireme {

// One worker's call. Owns itself until gRPC is done with it. Whoever takes it out of waiting_
// finishes it.
class RendezvousService::Call : public grpc::ServerUnaryReactor {
 public:
  Call(RendezvousService& service, grpc::ByteBuffer* response)
      : service_(service), response_(response) {}

  void Answer(const absl::StatusOr<v1::JoinResponse>& answer) {
    if (answer.ok()) *response_ = SerializeMessage(*answer);
    Finish(ToGrpcStatus(answer.status()));
  }

  void OnCancel() override { service_.Leave(*this); }
  void OnDone() override { delete this; }

  uint64_t id = 0;  // set once, under the service's mutex

 private:
  RendezvousService& service_;
  grpc::ByteBuffer* const response_;
};

grpc::ServerUnaryReactor* RendezvousService::Join(grpc::CallbackServerContext* /*context*/,
                                                  const grpc::ByteBuffer* request,
                                                  grpc::ByteBuffer* response) {
  auto* call = new Call(*this, response);
  v1::JoinRequest join;
  absl::Status status = ParseMessage(*request, join);
  if (status.ok()) status = cordoned_.Check(join.host());
  if (status.ok()) {
    Enter(*call, join);
  } else {
    call->Answer(status);
  }
  return call;
}

void RendezvousService::Enter(Call& call, const v1::JoinRequest& request) {
  std::vector<std::pair<Call*, absl::StatusOr<v1::JoinResponse>>> over;
  {
    const std::lock_guard lock(mutex_);
    if (!stopped_.empty()) {
      over.emplace_back(&call, absl::UnavailableError(stopped_));
    } else {
      call.id = ++last_id_;
      waiting_.emplace(call.id, &call);
      for (Rendezvous::Answer& answer : rendezvous_.Join(call.id, request)) {
        const auto it = waiting_.find(answer.member);
        over.emplace_back(it->second, std::move(answer.response));
        waiting_.erase(it);
      }
    }
  }
  for (const auto& [done, answer] : over) {
    if (!answer.ok()) {
      LogWarning(absl::StrCat("a worker may not join: ", std::string(answer.status().message())));
    } else if (answer->rank() == 0) {
      LogInfo(absl::StrCat("gang ", request.gang(), " is complete: ", answer->members_size(),
                           " ranks, incarnation ", answer->incarnation()));
    }
    done->Answer(answer);
  }
}

std::vector<v1::WaitingGang> RendezvousService::List() {
  const std::lock_guard lock(mutex_);
  return rendezvous_.List();
}

void RendezvousService::Leave(Call& call) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.erase(call.id) == 0) return;  // it is being answered
    rendezvous_.Leave(call.id);
  }
  call.Answer(absl::CancelledError("the worker has left"));
}

void RendezvousService::Stop(const std::string& reason) {
  std::map<uint64_t, Call*> waiting;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = reason;
    waiting.swap(waiting_);
  }
  for (const auto& [id, call] : waiting) call->Answer(absl::UnavailableError(reason));
}

}  // namespace trireme
