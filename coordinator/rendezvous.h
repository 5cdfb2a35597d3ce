#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "trireme/v1/cluster.pb.h"
#include "trireme/v1/rendezvous.pb.h"

namespace trireme {

// Which workers wait to become a gang, and who gets which rank. Pure: no threads, no clock. What
// comes in is bounded and checked. Not thread safe.
class Rendezvous {
 public:
  struct Answer {
    uint64_t member;
    absl::StatusOr<v1::JoinResponse> response;
  };

  // `member` is new, and names the call. Returns the calls that are over now: none while the gang
  // waits for others, all of its members when it is complete, or `member` with what is wrong:
  // INVALID_ARGUMENT for a request that cannot be, FAILED_PRECONDITION for one that contradicts a
  // member's, whose host and value it names, RESOURCE_EXHAUSTED for too many. One with the host and
  // rank of a member takes its place, whose call is over with ABORTED.
  std::vector<Answer> Join(uint64_t member, v1::JoinRequest request);

  // The call has ended before it was answered. Does nothing for one that was.
  void Leave(uint64_t member);

  size_t waiting() const;
  // Who waits, by gang.
  std::vector<v1::WaitingGang> List() const;

 private:
  using Gang = std::map<uint64_t, v1::JoinRequest>;  // by member, so in the order of joining

  absl::Status CheckFits(const v1::JoinRequest& request) const;
  std::vector<Answer> Complete(const Gang& gang);

  std::map<std::string, Gang> gangs_;  // by name; none is empty
  uint64_t incarnations_ = 0;
};

}  // namespace trireme
