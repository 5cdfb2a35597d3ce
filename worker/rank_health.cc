#include "worker/rank_health.h"

#include <grpcpp/health_check_service_interface.h>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

// How late a step may be said to take too long: steps themselves wake nobody.
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
  step_begun_.reset();
  changed_.notify_all();
}

void RankHealth::Left() {
  const std::lock_guard lock(mutex_);
  joined_ = false;
  changed_.notify_all();
}

void RankHealth::StepBegins() {
  const std::lock_guard lock(mutex_);
  step_begun_ = Clock::now();
}

void RankHealth::StepEnds() {
  const std::lock_guard lock(mutex_);
  step_begun_.reset();
}

bool RankHealth::Ready(Clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  return joined_ && (!step_begun_.has_value() || now - *step_begun_ < timeout_);
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
