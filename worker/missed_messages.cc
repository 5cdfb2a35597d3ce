#include "worker/missed_messages.h"

#include <algorithm>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<std::vector<v1::CoordinatorMessage>> MissedMessages(
    uint64_t received, const std::deque<v1::CoordinatorMessage>& latest, Communicator& ranks) {
  std::vector<uint64_t> all(static_cast<size_t>(ranks.size()));
  RETURN_IF_ERROR(ranks.AllGather(std::as_bytes(std::span(&received, 1)),
                                  std::as_writable_bytes(std::span(all))));
  const auto [least, most] = std::minmax_element(all.begin(), all.end());
  const int giver = static_cast<int>(most - all.begin());
  std::vector<v1::CoordinatorMessage> missed;
  for (uint64_t index = *least; index < *most; ++index) {
    std::string bytes;
    const uint64_t back = *most - index;
    if (ranks.rank() == giver && back <= latest.size()) {
      bytes = latest[latest.size() - back].SerializeAsString();
    }
    uint64_t size = bytes.size();
    RETURN_IF_ERROR(ranks.Broadcast(std::as_writable_bytes(std::span(&size, 1)), giver));
    if (size == 0) {
      return absl::InternalError(absl::StrCat("rank ", least - all.begin(), " has got ", *least,
                                              " messages, and rank ", giver, ", which has ", *most,
                                              ", keeps no more than ", latest.size()));
    }
    bytes.resize(size);
    RETURN_IF_ERROR(ranks.Broadcast(std::as_writable_bytes(std::span(bytes)), giver));
    if (index < received) continue;
    if (!missed.emplace_back().ParseFromString(bytes)) {
      return absl::InternalError(absl::StrCat("what rank ", giver, " has passed on is no message"));
    }
  }
  return missed;
}

}  // namespace trireme
