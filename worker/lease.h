#pragma once

#include <time.h>

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"

namespace trireme {

// A rank's right to go on. When it runs out the kernel kills the process, even one that is stopped
// (SIGSTOP) or stuck: whoever takes its place can rely on that it does and sends nothing more.
// Thread safe.
class Lease {
 public:
  using Clock = std::chrono::steady_clock;

  // Runs out `duration` from now, unless it is renewed.
  static absl::StatusOr<std::unique_ptr<Lease>> Take(Clock::duration duration);
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();  // nothing runs out any more

  // Lets it run out at `end` instead, also if that is sooner.
  void EndAt(Clock::time_point end);

 private:
  explicit Lease(timer_t timer) : timer_(timer) {}

  const timer_t timer_;
};

}  // namespace trireme
