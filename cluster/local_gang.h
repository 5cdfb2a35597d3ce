#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cluster/child_process.h"

namespace trireme {

// One gang of workers on this machine, as a child process of the thread that starts it, and when it
// is started anew: at once if it has been of use, or else after growing pauses. Not thread safe.
class LocalGang {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `command` is that of one worker; of more than one `ranks`, mpirun starts them.
  LocalGang(const std::vector<std::string>& command, int ranks);

  // NotFound or Internal says why it does not run.
  absl::Status Start();

  bool running() const { return process_.has_value(); }
  // Readable when it has ended; -1 if it does not run.
  int end_fd() const { return running() ? process_->end_fd() : -1; }
  // Whether a process is one of its ranks.
  bool Has(pid_t pid) const;

  // Kills it, ranks and all, if mpirun has lost a rank a while ago and yet has not ended: Open
  // MPI's may lock up for ever over one that died while it came up. Returns whether it did.
  bool KillIfStuck(Time now);

  // It has been seen to serve.
  void Serves(Time now) { served_at_ = now; }
  bool serving() const { return served_at_.has_value(); }

  // After its end: how that was. It is to be started anew after `pause`, which is longer each time
  // unless it `worked` or has served for a while.
  struct Ended {
    std::string how;
    std::chrono::milliseconds pause;
  };
  Ended Wait(bool worked, Time now);
  // When to start it anew, if it does not run.
  Time restart_at() const { return restart_at_; }

  // Tells it to end. One that serves is told by the coordinator, too, and gets until `deadline` to
  // listen to that first: mpirun then ends sooner than by a signal.
  void Stop(Time deadline) const;
  // Waits until `deadline` for its end, and kills it.
  void End(Time deadline);

 private:
  std::vector<std::string> command_;
  const int ranks_;
  const bool by_mpirun_;
  std::optional<ChildProcess> process_;
  std::optional<Time> served_at_;  // since when, if it does
  bool complete_ = false;          // every rank has been seen
  std::optional<Time> rank_lost_;  // when that was seen
  Time restart_at_;
  int short_lives_ = 0;  // in a row that were of no use, the last of them started anew
};

// Waits until `deadline` at most.
void AwaitEnd(const ChildProcess& child, LocalGang::Time deadline);

}  // namespace trireme
