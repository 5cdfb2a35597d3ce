#pragma once

#include <chrono>
#include <memory>

#include "parallel/communicator.h"

namespace trireme {

// Whether all ranks of a gang have been told to serve. A coordinator may go when it has told some
// only: these must not count on the others, which know nothing of it. So each rank that is told
// enters a barrier, on a thread of its own, and serves when it has passed. A rank that gives up
// waiting stays entered: the others enter when the next coordinator tells them. One thread at a
// time; a failure of the barrier ends the process, as the gang has lost a rank.
class ServingBarrier {
 public:
  // `ranks`, null for a rank alone, must not be used by others while this one is entered and not
  // passed; it outlives the barrier, or the process ends while that waits.
  explicit ServingBarrier(Communicator* ranks);
  ~ServingBarrier();

  // No effect on one that is entered.
  void Enter();
  bool entered() const { return entered_ != nullptr; }
  // Whether it was passed by then. Needs entered().
  bool PassedBy(std::chrono::steady_clock::time_point deadline) const;
  // For the next gang; after it was passed.
  void Leave();

 private:
  struct Entered;

  Communicator* const ranks_;
  std::shared_ptr<Entered> entered_;
};

}  // namespace trireme
