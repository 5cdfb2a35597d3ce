#include "coordinator/cordoned_hosts.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

constexpr size_t kHostsMax = 4096;
constexpr size_t kNameBytesMax = 256;

}  // namespace

absl::Status CordonedHosts::Cordon(const std::string& host, bool has_ranks) {
  if (host.empty() || host.size() > kNameBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a host's name has 1 to ", kNameBytesMax, " bytes"));
  }
  const std::lock_guard lock(mutex_);
  if (known_.size() >= kHostsMax && !known_.contains(host)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(kHostsMax, " hosts are cordoned already: uncordon some"));
  }
  known_[host] |= has_ranks;
  return absl::OkStatus();
}

bool CordonedHosts::IsKnown(const std::string& host) const {
  const std::lock_guard lock(mutex_);
  const auto found = known_.find(host);
  return found != known_.end() && found->second;
}

absl::Status CordonedHosts::Uncordon(const std::string& host) {
  const std::lock_guard lock(mutex_);
  if (known_.erase(host) > 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("host ", absl::CHexEscape(host), " is not cordoned"));
}

absl::Status CordonedHosts::Check(const std::string& host) {
  const std::lock_guard lock(mutex_);
  const auto found = known_.find(host);
  if (found == known_.end()) return absl::OkStatus();
  found->second = true;
  const std::string name = absl::CHexEscape(host);
  return absl::FailedPreconditionError(absl::StrCat(
      "host ", name, " is drained: its workers may join after `trireme uncordon ", name, "`"));
}

std::vector<std::string> CordonedHosts::List() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> hosts;
  for (const auto& [host, known] : known_) hosts.push_back(host);
  return hosts;
}

}  // namespace trireme
