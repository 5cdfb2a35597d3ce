#include "cluster/local_gang.h"

#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

using std::chrono::milliseconds;

// A gang that has served so long, if only idly, did not end of what it began with.
constexpr std::chrono::seconds kSteadyTime{1};
constexpr milliseconds kRestartPause{250};  // before the second restart in a row
constexpr milliseconds kRestartPauseMax{30'000};
constexpr int kRestartDoublings = 10;
// It takes mpirun far less to end once it has lost a rank.
constexpr std::chrono::seconds kStuckTime{2};

// 0 if there is no such process, or it has ended.
pid_t ParentOf(pid_t pid) {
  std::ifstream stat(absl::StrCat("/proc/", pid, "/stat"));
  stat.ignore(std::numeric_limits<std::streamsize>::max(), ')');  // behind the program's name
  char state = 0;
  pid_t parent = 0;
  return stat >> state >> parent && state != 'Z' ? parent : 0;
}

// That have not ended.
std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::ifstream list(absl::StrCat("/proc/", parent, "/task/", parent, "/children"));
  std::vector<pid_t> children;
  for (pid_t child = 0; list >> child;) {
    if (ParentOf(child) == parent) children.push_back(child);
  }
  return children;
}

}  // namespace

LocalGang::LocalGang(const std::vector<std::string>& command, int ranks)
    : ranks_(ranks), by_mpirun_(ranks > 1) {
  if (by_mpirun_) {
    // A gang of which a rank is lost has nothing to finish: the others need no second's notice.
    command_ = {"mpirun",
                "--quiet",
                "--oversubscribe",
                "--bind-to",
                "none",
                "--mca",
                "odls_base_sigkill_timeout",
                "0",
                "-np",
                absl::StrCat(ranks)};
  }
  command_.insert(command_.end(), command.begin(), command.end());
}

absl::Status LocalGang::Start() {
  // mpirun ends its ranks when it is told to end, not when it is killed.
  absl::StatusOr<ChildProcess> started =
      ChildProcess::Start(command_, by_mpirun_ ? SIGTERM : SIGKILL);
  if (by_mpirun_ && absl::IsNotFound(started.status())) {
    return absl::NotFoundError(
        "more than one worker needs mpirun; install openmpi-bin, or leave out --tp and --pp");
  }
  RETURN_IF_ERROR(started.status());
  process_ = *std::move(started);
  complete_ = false;
  rank_lost_.reset();
  return absl::OkStatus();
}

bool LocalGang::Has(pid_t pid) const {
  return running() && (by_mpirun_ ? ParentOf(pid) : pid) == process_->pid();
}

bool LocalGang::KillIfStuck(Time now) {
  if (!running() || !by_mpirun_) return false;
  const std::vector<pid_t> ranks = ChildrenOf(process_->pid());
  const bool all = static_cast<int>(ranks.size()) >= ranks_;
  complete_ = complete_ || all;
  if (all || !complete_) return false;
  if (!rank_lost_.has_value()) rank_lost_ = now;
  if (now - *rank_lost_ < kStuckTime) return false;
  for (const pid_t rank : ranks) kill(rank, SIGKILL);  // each has a process group of its own
  process_->Signal(SIGKILL);
  return true;
}

LocalGang::Ended LocalGang::Wait(bool worked, Time now) {
  Ended ended{.how = process_->Wait(), .pause = milliseconds(0)};
  process_.reset();
  if (worked || (serving() && now - *served_at_ > kSteadyTime)) short_lives_ = 0;
  served_at_.reset();
  if (short_lives_ > 0) {
    ended.pause = std::min(kRestartPause * (1 << (short_lives_ - 1)), kRestartPauseMax);
  }
  if (short_lives_ < kRestartDoublings) ++short_lives_;
  restart_at_ = now + ended.pause;
  return ended;
}

void LocalGang::Stop(Time deadline) const {
  if (!running()) return;
  if (serving()) AwaitEnd(*process_, deadline);
  process_->Signal(SIGTERM);
}

void LocalGang::End(Time deadline) {
  if (running()) AwaitEnd(*process_, deadline);
  process_.reset();  // kills what did not listen
}

void AwaitEnd(const ChildProcess& child, LocalGang::Time deadline) {
  pollfd end{.fd = child.end_fd(), .events = POLLIN, .revents = 0};
  const auto left =
      std::chrono::duration_cast<milliseconds>(deadline - std::chrono::steady_clock::now());
  poll(&end, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
}

}  // namespace trireme
