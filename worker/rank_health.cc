#include "worker/rank_health.h"

#include <grpcpp/health_check_service_interface.h>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

// How late it may be said: steps themselves wake nobody.
constexpr std::chrono::milliseconds kPublishInterval{200};

}  // namespace

RankHealth::~RankHealth() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (publisher_.joinable()) publisher_.join();
  // Whoever watches must not keep us.
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

absl::StatusOr<int> RankHealth::Listen(const std::string& address) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(&rest_);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("--health: cannot listen on ", address,
                     ": the port is in use or the address is not of this machine"));
  }
  publisher_ = std::thread([this] { Publish(); });
  return port;
}

void RankHealth::Joined() {
  const std::lock_guard lock(mutex_);
  joined_ = true;
  got_on_.reset();
  changed_.notify_all();
}

void RankHealth::Left() {
  const std::lock_guard lock(mutex_);
  joined_ = false;
  changed_.notify_all();
}

void RankHealth::GetsOn() {
  const std::lock_guard lock(mutex_);
  got_on_ = Clock::now();
}

bool RankHealth::Ready(Clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  return joined_ && got_on_.has_value() && now - *got_on_ < timeout_;
}

void RankHealth::Publish() {
  grpc::HealthCheckServiceInterface& service = *server_->GetHealthCheckService();
  service.SetServingStatus("liveness", true);
  std::optional<bool> published;
  std::unique_lock lock(mutex_);
  while (!closing_) {
    lock.unlock();
    const bool ready = Ready(Clock::now());
    if (published != ready) {
      for (const char* name : {"", "readiness"}) service.SetServingStatus(name, ready);
      published = ready;
    }
    lock.lock();
    changed_.wait_for(lock, kPublishInterval);
  }
}

}  // namespace trireme
