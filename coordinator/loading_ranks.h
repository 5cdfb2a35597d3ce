#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/cordoned_hosts.h"
#include "trireme/v1/cluster.pb.h"

namespace trireme {

// The ranks that say that they load, as operators see them, and as the others of their gang do,
// which wait for one that has gone. Thread safe.
class LoadingRanks {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::seconds kSilence{5};  // after which a rank is not listed

  // A rank that is silent for longer, while another of its gang is not, is lost, and its gang with
  // it. Several times what a report takes. A gang with a rank on a cordoned host is, too: it could
  // not join, and would have loaded for nothing.
  LoadingRanks(std::chrono::milliseconds silence_max, CordonedHosts& cordoned)
      : silence_max_(silence_max), cordoned_(cordoned) {}

  struct Heard {
    bool moved = false;  // the rank has loaded something since its last report
    std::string lost;    // why its gang is no more; empty: it is
  };

  // INVALID_ARGUMENT for what no rank says, RESOURCE_EXHAUSTED for too many.
  absl::StatusOr<Heard> Report(const v1::LoadingRank& rank, Time now);

  // By host and rank, without those that serve.
  std::vector<v1::LoadingRank> List(const v1::ListRanksResponse& serving, Time now);

 private:
  using Process =
      std::tuple<std::string, uint32_t, uint32_t, std::string>;  // host, pid, rank, gang
  struct Entry {
    v1::LoadingRank rank;
    Time since{};  // heard without a gap since then
    Time heard{};  // last
  };

  struct Lost {
    std::string why;
    Time when{};
  };

  // These need mutex_.
  void Forget(Time now);
  std::string WhyLost(const Entry& reporter, Time now);

  const std::chrono::milliseconds silence_max_;
  CordonedHosts& cordoned_;
  std::mutex mutex_;
  // Guarded by mutex_.
  // Containers may share a host's name and each have a process 1.
  std::map<Process, Entry> by_process_;
  std::map<std::string, Lost> lost_;  // by gang id
};

}  // namespace trireme
