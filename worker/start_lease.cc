#include "worker/start_lease.h"

#include <chrono>
#include <utility>

#include "base/status_macros.h"

namespace trireme {
namespace {

constexpr std::chrono::seconds kLength{4};
constexpr int kRenewalsPerLease = 8;

}  // namespace

absl::StatusOr<std::unique_ptr<StartLease>> StartLease::Take() {
  ASSIGN_OR_RETURN(std::unique_ptr<Lease> lease, Lease::Take(kLength));
  return std::unique_ptr<StartLease>(new StartLease(std::move(lease)));
}

StartLease::StartLease(std::unique_ptr<Lease> lease) : lease_(std::move(lease)) {
  renewer_ = std::thread([this] { Renew(); });
}

StartLease::~StartLease() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  renewer_.join();
}

void StartLease::Renew() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kLength / kRenewalsPerLease, [this] { return over_; })) {
    lease_->EndAt(Lease::Clock::now() + kLength);
  }
}

}  // namespace trireme
