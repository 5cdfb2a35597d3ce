#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "cluster/child_process.h"
#include "trireme/v1/cluster.grpc.pb.h"
#include "trireme/v1/inference.grpc.pb.h"

namespace trireme {

struct LocalClusterOptions {
  std::string model;    // Hugging Face directory or GGUF file
  std::string address;  // HOST:PORT of the coordinator; empty: a free port of 127.0.0.1
  int tp = 1;
  int pp = 1;
  std::vector<std::string> coordinator_flags;  // besides model and addresses
  std::vector<std::string> worker_flags;       // besides model, addresses and layout
};

// A coordinator and a gang of tp x pp workers on this machine, as child processes that end with
// this one, whatever ends it. Workers that end after they have served are started anew, with
// growing pauses if they end again soon; what else ends is a failure. Thread safe.
class LocalCluster {
 public:
  using FailureHandler = std::function<void(const absl::Status&)>;

  // Starts both at once and returns. The programs are those beside this one. `on_failure` is called
  // at most once, from the supervisor's thread, when the cluster is lost after it has served.
  LocalCluster(const LocalClusterOptions& options, FailureHandler on_failure);
  LocalCluster(const LocalCluster&) = delete;
  LocalCluster& operator=(const LocalCluster&) = delete;
  ~LocalCluster();  // stops all and waits until they are gone, a few seconds at most

  // Waits until the gang serves. An error says which program failed; its own words are on standard
  // error already.
  absl::StatusOr<v1::GetModelResponse> AwaitReady();

  // HOST:PORT of the coordinator. Empty if no port was free, which AwaitReady tells.
  const std::string& address() const { return address_; }

 private:
  void Supervise();
  absl::Status StartCoordinator();
  absl::Status StartGang();
  absl::Status Watch();
  absl::Status AfterGang();
  bool PollReady();
  uint64_t TokensGenerated() const;  // by all gangs so far
  void Stop();

  const LocalClusterOptions options_;
  const FailureHandler on_failure_;
  std::string address_;
  int stop_fd_ = -1;

  // The supervisor's alone.
  std::optional<ChildProcess> coordinator_;
  std::optional<ChildProcess> gang_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  bool serving_ = false;
  std::chrono::steady_clock::time_point served_at_;   // since when, if it does
  std::chrono::steady_clock::time_point restart_at_;  // of a gang that has ended
  uint64_t tokens_before_ = 0;                        // when the last gang ended
  int short_lives_ = 0;  // gangs in a row that ended soon, the last of them started anew

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<absl::StatusOr<v1::GetModelResponse>> ready_;  // guarded by mutex_

  std::thread supervisor_;  // last: it uses the others
};

}  // namespace trireme
