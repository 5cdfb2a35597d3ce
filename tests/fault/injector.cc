#include "tests/fault/injector.h"

#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cluster/client.h"
#include "tests/fault/processes.h"

namespace trireme::fault {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPoll{5};
constexpr std::chrono::seconds kRecoveryMax{60};
constexpr milliseconds kSecondFaultMax{600};
constexpr milliseconds kSettle{200};

}  // namespace

Injector::Injector(InjectorOptions options)
    : options_(std::move(options)),
      stub_(v1::Cluster::NewStub(ConnectTo(options_.server))),
      random_(options_.seed) {}

absl::Status Injector::One() {
  std::this_thread::sleep_for(milliseconds(Below(options_.pause_max.count() + 1)));
  const uint64_t old_epoch = Ranks().epoch();
  const auto begin = Clock::now();
  ASSIGN_OR_RETURN(const End end, Begin(options_.kinds[Below(options_.kinds.size())]));
  return Await(old_epoch, begin, end);
}

absl::StatusOr<Injector::End> Injector::Begin(FaultKind kind) {
  switch (kind) {
    case FaultKind::kStop:
      return Stop();
    case FaultKind::kCommand:
      return Command();
    case FaultKind::kKill:
      SignalAnyOf(FindWorkers(options_.server), SIGKILL);
      break;
    case FaultKind::kTerm:
      SignalAnyOf(FindWorkers(options_.server), SIGTERM);
      break;
    case FaultKind::kKillAgain:
      RETURN_IF_ERROR(KillAgain());
      break;
  }
  return End{Clock::now(), [] { return absl::OkStatus(); }, /*loses_gang=*/true};
}

absl::Status Injector::KillAgain() {
  const std::vector<pid_t> first = FindWorkers(options_.server);
  SignalAnyOf(first, SIGKILL);
  const auto deadline = Clock::now() + kRecoveryMax;
  const auto is_new = [&](pid_t pid) {
    return std::find(first.begin(), first.end(), pid) == first.end();
  };
  std::vector<pid_t> next;
  while (std::none_of(next.begin(), next.end(), is_new)) {
    if (Clock::now() > deadline) return absl::DeadlineExceededError("no worker was started anew");
    std::this_thread::sleep_for(kPoll);
    next = FindWorkers(options_.server);
  }
  std::this_thread::sleep_for(milliseconds(Below(kSecondFaultMax.count())));
  SignalAnyOf(FindWorkers(options_.server), SIGKILL);
  return absl::OkStatus();
}

void Injector::SignalAnyOf(const std::vector<pid_t>& workers, int signal) {
  if (!workers.empty()) kill(workers[Below(workers.size())], signal);
}

absl::StatusOr<Injector::End> Injector::Stop() {
  const std::vector<pid_t> workers = FindWorkers(options_.server);
  if (workers.empty()) return absl::FailedPreconditionError("there are no workers to stop");
  const pid_t pid = workers[Below(workers.size())];
  const milliseconds duration = DrawDuration();
  kill(pid, SIGSTOP);
  return End{Clock::now() + duration, [this, pid, duration]() -> absl::Status {
               const bool alive = IsAlive(pid);
               kill(pid, SIGCONT);
               if (!alive || duration < options_.worker_timeout) return absl::OkStatus();
               return absl::InternalError(absl::StrCat("process ", pid, " was stopped for ",
                                                       duration.count(), " ms and lives on"));
             }};
}

absl::StatusOr<Injector::End> Injector::Command() {
  const auto call = [this](const char* word) {
    if (std::system(absl::StrCat(options_.command, " ", word).c_str()) == 0) {
      return absl::OkStatus();
    }
    return absl::InternalError(absl::StrCat(options_.command, " ", word, " failed"));
  };
  RETURN_IF_ERROR(call("begin"));
  return End{Clock::now() + DrawDuration(), [call] { return call("end"); }};
}

absl::Status Injector::Await(uint64_t old_epoch, Clock::time_point begin, const End& end) {
  const auto deadline = end.when + kRecoveryMax;
  bool ended = false;
  std::optional<Clock::time_point> served;  // by a gang that the fault did not end
  bool recovered = false;
  while (Clock::now() < deadline) {
    std::this_thread::sleep_for(kPoll);
    if (!ended && Clock::now() >= end.when) {
      RETURN_IF_ERROR(end.call());
      ended = true;
    }
    const v1::ListRanksResponse ranks = Ranks();
    const bool lost = ranks.epoch() != old_epoch;
    // What does not lose the gang at once may lose it when its sockets have filled, so it is given
    // a moment.
    const bool settled = lost || (!end.loses_gang && Clock::now() > end.when + kSettle);
    if (!ranks.ready() || !settled) {
      served.reset();
    } else if (!served.has_value()) {
      served = Clock::now();
    }
    if (served.has_value() && !recovered && options_.last_message() > *served) {
      recovered = true;
      const auto since = lost ? begin : end.when;
      recovery_seconds_.push_back(
          std::chrono::duration<double>(options_.last_message() - since).count());
      gangs_lost_ += ranks.epoch() - old_epoch;
    }
    if (recovered && ended) return absl::OkStatus();
  }
  return absl::DeadlineExceededError(
      absl::StrCat("clients have heard nothing for ",
                   std::chrono::duration_cast<std::chrono::seconds>(kRecoveryMax).count(), " s"));
}

v1::ListRanksResponse Injector::Ranks() {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  v1::ListRanksResponse response;
  if (!stub_->ListRanks(&context, {}, &response).ok()) response.Clear();
  return response;
}

milliseconds Injector::DrawDuration() {
  const auto span = options_.duration_max - options_.duration_min;
  return options_.duration_min + milliseconds(Below(static_cast<uint64_t>(span.count()) + 1));
}

}  // namespace trireme::fault
