#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace trireme {

// How far a rank is in exchanging data with its peers, for others to see while it waits. Thread
// safe.
class CollectiveWatch {
 public:
  struct Exchange {
    std::string what;        // "all-reduce", "receive", ...
    std::vector<int> ranks;  // whom it waits for, by their ranks in the world
    uint64_t bytes = 0;      // that it receives or, if none, sends
  };
  struct State {
    uint64_t done = 0;                // exchanges that have ended
    std::optional<Exchange> current;  // the one it is in
  };

  State state() const;

 private:
  friend class WatchedCommunicator;

  struct Call {
    const char* what = nullptr;
    const std::vector<int>* ranks = nullptr;  // the communicator's, which lives during its call
    uint64_t bytes = 0;
  };

  void Begin(const Call& call);
  void End();

  mutable std::mutex mutex_;
  // All guarded by mutex_.
  uint64_t done_ = 0;
  std::optional<Call> current_;
};

// `world`, and the groups split off from it, with every exchange told to `watch`, which outlives
// them. Costs tens of nanoseconds a call. Post does not wait, and is not seen.
std::unique_ptr<Communicator> WatchCollectives(std::unique_ptr<Communicator> world,
                                               CollectiveWatch& watch);

}  // namespace trireme
