#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace trireme {

// What grpc.health.v1 says of this rank:
//   "liveness"           SERVING from the start: the process answers
//   "readiness" and ""   SERVING while the rank is part of a gang that serves and gets on
// A rank that is stuck is not ready but alive. All ranks of its gang wait with it, and none of them
// can tell whose fault it is: the coordinator can, names it and ends the gang. Thread safe.
class RankHealth {
 public:
  using Clock = std::chrono::steady_clock;

  // A rank that has not got on for longer than `timeout` is not ready.
  explicit RankHealth(Clock::duration timeout) : timeout_(timeout) {}
  RankHealth(const RankHealth&) = delete;
  RankHealth& operator=(const RankHealth&) = delete;
  ~RankHealth();

  // Serves at HOST:PORT, which the caller has checked, and returns the port; to be called once at
  // most. UNAVAILABLE if the port is in use. Without it nothing is served.
  absl::StatusOr<int> Listen(const std::string& address);

  // The gang serves, and this rank with it.
  void Joined();
  // It does not any more, or will soon not.
  void Left();
  // A step has ended, or the self-test of an idle gang.
  void GetsOn();

  bool Ready(Clock::time_point now) const;

 private:
  void Publish();

  const Clock::duration timeout_;
  mutable std::mutex mutex_;
  // All guarded by mutex_.
  std::condition_variable changed_;
  bool joined_ = false;
  bool closing_ = false;
  std::optional<Clock::time_point> got_on_;  // last, since it has joined

  grpc::CallbackGenericService
      rest_;  // what is no health: refused, and gRPC wants a service of ours
  std::unique_ptr<grpc::Server> server_;
  std::thread publisher_;
};

}  // namespace trireme
