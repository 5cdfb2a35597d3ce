#include "cluster/client.h"

#include <pthread.h>

#include <atomic>
#include <csignal>
#include <ctime>
#include <iostream>
#include <thread>
#include <utility>

namespace trireme {

namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

InterruptBlocked::InterruptBlocked() {
  const sigset_t interrupt = InterruptSet();
  pthread_sigmask(SIG_BLOCK, &interrupt, &previous_);
}

InterruptBlocked::~InterruptBlocked() { pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }

void AddServerFlag(CLI::App& command, std::string& server) {
  command.add_option("--server", server, "HOST:PORT of the coordinator")
      ->envname("TRIREME_SERVER")
      ->capture_default_str();
}

std::shared_ptr<grpc::Channel> ConnectTo(const std::string& server) {
  const InterruptBlocked blocked;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Who tries again decides when; a server that is back is found soon.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
}

bool IsUnreachable(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE &&
         (status.error_message().find("connect") != std::string::npos ||
          status.error_message().find("resol") != std::string::npos);
}

int ReportError(const std::string& server, const grpc::Status& status) {
  if (IsUnreachable(status)) {
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

int ReportError(const std::string& server, const grpc::Status& status,
                const std::string& retry_after) {
  if (retry_after.empty()) return ReportError(server, status);
  return ReportError(server,
                     grpc::Status(status.error_code(), status.error_message() +
                                                           "; the server asks to try again after " +
                                                           retry_after + " s"));
}

// Takes SIGINT with sigtimedwait on a thread of its own, where calling into gRPC is allowed, which
// it is not in a signal handler.
class InterruptScope::Watcher {
 public:
  explicit Watcher(std::function<void()> on_interrupt)
      : on_interrupt_(std::move(on_interrupt)), thread_([this] { Watch(); }) {}
  ~Watcher() {
    stop_ = true;
    thread_.join();
  }
  bool interrupted() const { return interrupted_; }

 private:
  void Watch() {
    const sigset_t interrupt = InterruptSet();
    const timespec wait{.tv_sec = 0, .tv_nsec = 20'000'000};
    while (!stop_) {
      if (sigtimedwait(&interrupt, nullptr, &wait) != SIGINT) continue;
      if (interrupted_) std::_Exit(130);
      interrupted_ = true;
      on_interrupt_();
    }
  }

  InterruptBlocked blocked_;  // before the thread starts
  std::function<void()> on_interrupt_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> interrupted_{false};
  std::thread thread_;
};

InterruptScope::InterruptScope(std::function<void()> on_interrupt)
    : watcher_(std::make_unique<Watcher>(std::move(on_interrupt))) {}
InterruptScope::~InterruptScope() = default;
bool InterruptScope::interrupted() const { return watcher_->interrupted(); }

grpc::Status ReadResponses(ResponseReader& reader,
                           const std::function<void(const v1::GenerateResponse&)>& on_response) {
  v1::GenerateResponse response;
  while (reader.Read(&response)) on_response(response);
  return reader.Finish();
}

}  // namespace trireme
