#include "coordinator/gateway/worker_control_service.h"

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "coordinator/gateway/wire.h"

namespace trireme {
namespace {

// A rank that lets this many pile up is not reading; there are some more plans than pipeline
// stages.
constexpr size_t kUnsentMax = 1024;

using BytesReactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

// One rank's stream. Owns itself until gRPC is done with it; the engine may hold it longer.
class ControlCall : public BytesReactor, public WorkerStream {
 public:
  static BytesReactor* Start(grpc::CallbackServerContext* context, Engine& engine) {
    const std::shared_ptr<ControlCall> call(new ControlCall(engine));
    call->self_ = call;
    call->stream_id_ = engine.OnWorkerConnect(call, context->peer());
    call->StartRead(&call->reading_);
    return call.get();
  }

  void Send(const v1::CoordinatorMessage& message) override {
    const std::lock_guard lock(mutex_);
    if (end_.has_value()) return;
    unsent_.push_back(SerializeMessage(message));
    if (unsent_.size() > kUnsentMax) {
      unsent_.clear();
      end_ = absl::ResourceExhaustedError("the rank does not read its plans");
    }
    Pump();
  }

  void Close(const absl::Status& status) override {
    const std::lock_guard lock(mutex_);
    if (!end_.has_value()) end_ = status;
    Pump();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return OnGone();
    v1::WorkerMessage message;
    const absl::Status parsed = ParseMessage(reading_, message);
    if (!parsed.ok()) {
      Close(parsed);
      engine_.OnWorkerDisconnect(stream_id_, "sent what is not a message");
      return;
    }
    engine_.OnWorkerMessage(stream_id_, std::move(message));
    reading_.Clear();
    StartRead(&reading_);
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) unsent_.clear();  // the read side notices, too
    Pump();
  }

  void OnCancel() override { OnGone(); }

  void OnDone() override {
    std::shared_ptr<ControlCall> self;  // outlives the lock
    const std::lock_guard lock(mutex_);
    self = std::move(self_);
  }

 private:
  explicit ControlCall(Engine& engine) : engine_(engine) {}

  void OnGone() {
    engine_.OnWorkerDisconnect(stream_id_, "has gone: its control stream ended");
    Close(absl::OkStatus());
  }

  // Starts the next write or, after the last, ends the call. Needs mutex_.
  void Pump() {
    if (writing_ || finished_) return;
    if (!unsent_.empty()) {
      sending_ = std::move(unsent_.front());
      unsent_.pop_front();
      writing_ = true;
      StartWrite(&sending_);
    } else if (end_.has_value()) {
      finished_ = true;
      Finish(ToGrpcStatus(*end_));
    }
  }

  Engine& engine_;
  uint64_t stream_id_ = 0;
  grpc::ByteBuffer reading_;

  std::mutex mutex_;
  std::shared_ptr<ControlCall> self_;  // until OnDone
  std::deque<grpc::ByteBuffer> unsent_;
  grpc::ByteBuffer sending_;
  bool writing_ = false;
  bool finished_ = false;            // Finish has been called
  std::optional<absl::Status> end_;  // how the call ends, once unsent_ is written
};

}  // namespace

BytesReactor* WorkerControlService::Connect(grpc::CallbackServerContext* context) {
  return ControlCall::Start(context, engine_);
}

}  // namespace trireme
