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
#include "cluster/local_gang.h"
#include "trireme/v1/cluster.grpc.pb.h"
#include "trireme/v1/inference.grpc.pb.h"

namespace trireme {

struct LocalClusterOptions {
  std::string model;    // Hugging Face directory or GGUF file
  std::string address;  // HOST:PORT of the coordinator; empty: a free port of 127.0.0.1
  int tp = 1;
  int pp = 1;
  int replicas = 1;                            // gangs, each of tp x pp workers
  std::vector<std::string> coordinator_flags;  // besides model and addresses
  std::vector<std::string> worker_flags;       // besides model, addresses and layout
};

// A coordinator and gangs of tp x pp workers on this machine, as child processes that end with this
// one, whatever ends it. A gang that ends after all have served is started anew, with growing
// pauses if it ends again soon; what else ends is a failure. Thread safe.
class LocalCluster {
 public:
  using FailureHandler = std::function<void(const absl::Status&)>;

  // Starts all at once and returns. The programs are those beside this one. `on_failure` is called
  // at most once, from the supervisor's thread, when the cluster is lost after it has served.
  LocalCluster(const LocalClusterOptions& options, FailureHandler on_failure);
  LocalCluster(const LocalCluster&) = delete;
  LocalCluster& operator=(const LocalCluster&) = delete;
  ~LocalCluster();  // stops all and waits until they are gone, a few seconds at most

  // Waits until every gang serves. An error says which program failed; its own words are on
  // standard error already.
  absl::StatusOr<v1::GetModelResponse> AwaitReady();

  // HOST:PORT of the coordinator. Empty if no port was free, which AwaitReady tells.
  const std::string& address() const { return address_; }

 private:
  void Supervise();
  absl::Status StartCoordinator();
  absl::Status StartGangs();
  absl::Status Watch();
  absl::Status AfterGang(LocalGang& gang);
  // The coordinator's answer, or nothing if it does not answer.
  std::optional<v1::ListRanksResponse> ListRanks();
  void SeeWhoServes();
  bool AllServe() const;
  void Stop();

  const LocalClusterOptions options_;
  const FailureHandler on_failure_;
  std::string address_;
  int stop_fd_ = -1;

  // The supervisor's alone.
  std::optional<ChildProcess> coordinator_;
  std::vector<LocalGang> gangs_;
  std::shared_ptr<grpc::Channel> channel_;
  uint64_t tokens_before_ = 0;  // when the last gang ended

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<absl::StatusOr<v1::GetModelResponse>> ready_;  // guarded by mutex_

  std::thread supervisor_;  // last: it uses the others
};

}  // namespace trireme
