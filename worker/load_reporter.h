#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "trireme/v1/cluster.pb.h"
#include "worker/load_progress.h"

namespace trireme {

// Tells the coordinator once a second how far this rank's load is, as long as it lives. A
// coordinator that is not there, or does not know such reports, is no error. One that says that the
// gang has lost a rank ends the process, which may wait for that rank.
class LoadReporter {
 public:
  // `rank` says who it is; `count` must outlive it.
  LoadReporter(const std::string& coordinator, v1::LoadingRank rank, const LoadCount& count);
  ~LoadReporter();
  LoadReporter(const LoadReporter&) = delete;
  LoadReporter& operator=(const LoadReporter&) = delete;

 private:
  void Run(const std::string& coordinator);

  v1::LoadingRank rank_;
  const LoadCount& count_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;                   // guarded by mutex_
  grpc::ClientContext* call_ = nullptr;  // guarded by mutex_; under way
  std::thread thread_;                   // last: it uses the others
};

}  // namespace trireme
