#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "trireme/v1/cluster.pb.h"

namespace trireme {

// The ranks that say that they load, as operators see them. Thread safe.
class LoadingRanks {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::seconds kSilence{5};  // after which a rank is forgotten

  // Whether the rank has loaded something since its last report. INVALID_ARGUMENT for what no rank
  // says, RESOURCE_EXHAUSTED for too many.
  absl::StatusOr<bool> Report(const v1::LoadingRank& rank, Time now);

  // By host and rank, without those that serve.
  std::vector<v1::LoadingRank> List(const v1::ListRanksResponse& serving, Time now);

 private:
  struct Entry {
    v1::LoadingRank rank;
    Time heard{};
  };

  void Forget(Time now);

  std::mutex mutex_;
  std::map<std::pair<std::string, uint32_t>, Entry> by_process_;  // host and pid; guarded by mutex_
};

}  // namespace trireme
