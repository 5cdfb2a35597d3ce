#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace trireme {

// How far a rank is in exchanging data with its peers, for others to see while it waits. Thread
// safe.
class CollectiveWatch {
 public:
  struct State {
    uint64_t done = 0;    // exchanges that have ended
    std::string waiting;  // in which it is, as "all-gather of ranks 0 to 3"; empty: in none
  };

  State state() const;

 private:
  friend class WatchedCommunicator;

  void Begin(const char* what, int peer, const std::vector<int>& ranks);
  void End();

  mutable std::mutex mutex_;
  // All guarded by mutex_.
  uint64_t done_ = 0;
  const char* what_ = nullptr;  // null: in none
  int peer_ = -1;               // of point to point, by its rank in the world
  std::vector<int> ranks_;      // of the group, by their ranks in the world
};

// `world`, and the groups split off from it, with every exchange told to `watch`, which outlives
// them. Costs tens of nanoseconds a call.
std::unique_ptr<Communicator> WatchCollectives(std::unique_ptr<Communicator> world,
                                               CollectiveWatch& watch);

}  // namespace trireme
