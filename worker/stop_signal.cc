#include "worker/stop_signal.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <cstdlib>
#include <utility>

namespace trireme {
namespace {

sigset_t Term() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

StopSignal::StopSignal() {
  const sigset_t signals = Term();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Wait(); });
}

StopSignal::~StopSignal() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void StopSignal::OnStop(std::function<void()> finish) {
  const std::lock_guard lock(mutex_);
  finish_ = std::move(finish);
}

void StopSignal::Wait() {
  const sigset_t signals = Term();
  while (true) {
    int signal = 0;
    sigwait(&signals, &signal);
    const std::lock_guard lock(mutex_);
    if (over_) return;
    if (asked_ || !finish_) std::_Exit(128 + SIGTERM);
    asked_ = true;
    finish_();
  }
}

void EndWithLauncher() { prctl(PR_SET_PDEATHSIG, SIGKILL); }

}  // namespace trireme
