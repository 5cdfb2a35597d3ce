#include "worker/lease.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace trireme {

absl::StatusOr<std::unique_ptr<Lease>> Lease::Take(Clock::duration duration) {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGKILL;
  timer_t timer{};
  // It runs on while the process is stopped.
  if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot make a timer: ", std::strerror(errno),
                                                     "; raise the limit of pending signals "
                                                     "(ulimit -i)"));
  }
  std::unique_ptr<Lease> lease(new Lease(timer));
  lease->EndAt(Clock::now() + duration);
  return lease;
}

Lease::~Lease() { timer_delete(timer_); }

void Lease::EndAt(Clock::time_point end) {
  using std::chrono::nanoseconds;
  constexpr int64_t kSecond = 1'000'000'000;
  // At least 1: zero would disarm the timer.
  const int64_t ns =
      std::max<int64_t>(1, std::chrono::duration_cast<nanoseconds>(end.time_since_epoch()).count());
  itimerspec when{};
  when.it_value = {.tv_sec = ns / kSecond, .tv_nsec = ns % kSecond};
  // steady_clock is CLOCK_MONOTONIC.
  CHECK(timer_settime(timer_, TIMER_ABSTIME, &when, nullptr) == 0);
}

}  // namespace trireme
