#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trireme/v1/cluster.grpc.pb.h"

namespace trireme::fault {

enum class FaultKind {
  kKill,       // SIGKILL of one rank
  kKillAgain,  // and of another one while the next gang comes up
  kTerm,       // SIGTERM of one rank
  kStop,       // SIGSTOP of one rank for a while
  kCommand,    // InjectorOptions::command
};

struct InjectorOptions {
  std::string server;
  std::vector<FaultKind> kinds;
  // How long a stop or what the command does lasts.
  std::chrono::milliseconds duration_min{1'000};
  std::chrono::milliseconds duration_max{30'000};
  // A rank that was stopped longer must not live.
  std::chrono::milliseconds worker_timeout{4'000};
  std::chrono::milliseconds pause_max{1'000};  // from a recovery to the next fault
  std::string command;                         // called with "begin" and, later, with "end"
  uint64_t seed = 0;
  // When a client last heard of its request.
  std::function<std::chrono::steady_clock::time_point()> last_message;
};

// Makes faults, one after the other has been recovered from. Not thread safe.
class Injector {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Injector(InjectorOptions options);

  // Until the clients hear of their requests again, of a gang without fault. An error: they do not,
  // or a rank has outlived its lease.
  absl::Status One();

  // Of each fault that lost a gang, from its beginning until clients hear from the next one. Of
  // others, from their end until clients hear again.
  const std::vector<double>& recovery_seconds() const { return recovery_seconds_; }
  uint64_t gangs_lost() const { return gangs_lost_; }

 private:
  // When a fault ends, and what ends it.
  struct End {
    Clock::time_point when;
    std::function<absl::Status()> call;
    bool loses_gang = false;  // in any case, so there is a new gang to wait for
  };

  absl::StatusOr<End> Begin(FaultKind kind);
  absl::Status KillAgain();
  absl::StatusOr<End> Stop();
  absl::StatusOr<End> Command();
  void SignalAnyOf(const std::vector<pid_t>& workers, int signal);
  absl::Status Await(uint64_t old_epoch, Clock::time_point begin, const End& end);
  v1::ListRanksResponse Ranks();
  uint64_t Below(uint64_t n) { return random_() % n; }
  std::chrono::milliseconds DrawDuration();

  const InjectorOptions options_;
  const std::unique_ptr<v1::Cluster::Stub> stub_;
  std::mt19937_64 random_;
  std::vector<double> recovery_seconds_;
  uint64_t gangs_lost_ = 0;
};

}  // namespace trireme::fault
