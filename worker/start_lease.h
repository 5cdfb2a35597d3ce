#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/statusor.h"
#include "worker/lease.h"

namespace trireme {

// A lease that the process itself renews while it runs, for the time before a coordinator gives
// it one: a rank that is stopped while it joins, loads, or waits for the next coordinator ends, and
// so does its peers' wait for it.
class StartLease {
 public:
  static absl::StatusOr<std::unique_ptr<StartLease>> Take();
  StartLease(const StartLease&) = delete;
  StartLease& operator=(const StartLease&) = delete;
  ~StartLease();

 private:
  explicit StartLease(std::unique_ptr<Lease> lease);

  void Renew();

  const std::unique_ptr<Lease> lease_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;  // guarded by mutex_
  std::thread renewer_;
};

}  // namespace trireme
