#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace trireme {

// The hosts that an operator has drained: their workers may not join until they are uncordoned. In
// memory only: a new coordinator knows none. Thread safe.
class CordonedHosts {
 public:
  // `has_ranks`: a rank is there. INVALID_ARGUMENT for a name that no host has, RESOURCE_EXHAUSTED
  // for too many.
  absl::Status Cordon(const std::string& host, bool has_ranks);

  // Whether a rank was on this cordoned host, or was refused there since: there is such a host.
  bool IsKnown(const std::string& host) const;

  // NOT_FOUND if it is not cordoned.
  absl::Status Uncordon(const std::string& host);

  // Of a rank's host: FAILED_PRECONDITION, with what to do, if it may not join.
  absl::Status Check(const std::string& host);

  // By name.
  std::vector<std::string> List() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, bool> known_;  // by host; guarded by mutex_
};

}  // namespace trireme
