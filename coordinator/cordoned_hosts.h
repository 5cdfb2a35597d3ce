#pragma once

#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace trireme {

// The hosts that an operator has drained: their workers may not join until they are uncordoned. In
// memory only: a new coordinator knows none. Thread safe.
class CordonedHosts {
 public:
  // INVALID_ARGUMENT for a name that no host has, RESOURCE_EXHAUSTED for too many.
  absl::Status Cordon(const std::string& host);

  // NOT_FOUND if it is not cordoned.
  absl::Status Uncordon(const std::string& host);

  // FAILED_PRECONDITION, with what to do, if workers of the host may not join.
  absl::Status Check(const std::string& host) const;

  // By name.
  std::vector<std::string> List() const;

 private:
  mutable std::mutex mutex_;
  std::set<std::string, std::less<>> hosts_;  // guarded by mutex_
};

}  // namespace trireme
