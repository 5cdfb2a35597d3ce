#include "cluster/client.h"

#include <pthread.h>

#include <atomic>
#include <csignal>
#include <ctime>
#include <iostream>
#include <thread>

namespace trireme {

std::shared_ptr<grpc::Channel> ConnectTo(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
}

int ReportError(const std::string& server, const grpc::Status& status) {
  const bool unreachable = status.error_code() == grpc::StatusCode::UNAVAILABLE &&
                           (status.error_message().find("connect") != std::string::npos ||
                            status.error_message().find("resol") != std::string::npos);
  if (unreachable) {
    std::cerr << "trireme: cannot reach the coordinator at " << server << " ("
              << status.error_message()
              << "); start it with: trireme-coordinator --model DIR --grpc " << server << std::endl;
  } else if (status.error_code() == grpc::StatusCode::CANCELLED) {
    std::cerr << "trireme: cancelled" << std::endl;
    return 130;
  } else if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    std::cerr << "trireme: " << server << " did not answer in time; raise --timeout" << std::endl;
  } else {
    std::cerr << "trireme: " << status.error_message() << std::endl;
  }
  return 1;
}

// Takes SIGINT with sigtimedwait on a thread of its own, where calling into gRPC is allowed, which
// it is not in a signal handler.
class InterruptScope::Watcher {
 public:
  explicit Watcher(grpc::ClientContext& context) {
    sigset_t interrupt = InterruptSet();
    pthread_sigmask(SIG_BLOCK, &interrupt, &previous_);
    thread_ = std::thread([this, &context] { Watch(context); });
  }
  ~Watcher() {
    stop_ = true;
    thread_.join();
    pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
  }
  bool interrupted() const { return interrupted_; }

 private:
  static sigset_t InterruptSet() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    return set;
  }

  void Watch(grpc::ClientContext& context) {
    const sigset_t interrupt = InterruptSet();
    const timespec wait{.tv_sec = 0, .tv_nsec = 20'000'000};
    while (!stop_) {
      if (sigtimedwait(&interrupt, nullptr, &wait) != SIGINT) continue;
      if (interrupted_) std::_Exit(130);
      interrupted_ = true;
      context.TryCancel();
    }
  }

  sigset_t previous_{};
  std::atomic<bool> stop_{false};
  std::atomic<bool> interrupted_{false};
  std::thread thread_;
};

InterruptScope::InterruptScope(grpc::ClientContext& context)
    : watcher_(std::make_unique<Watcher>(context)) {}
InterruptScope::~InterruptScope() = default;
bool InterruptScope::interrupted() const { return watcher_->interrupted(); }

grpc::Status ReadResponses(ResponseReader& reader,
                           const std::function<void(const v1::GenerateResponse&)>& on_response) {
  v1::GenerateResponse response;
  while (reader.Read(&response)) on_response(response);
  return reader.Finish();
}

}  // namespace trireme
