#include "coordinator/cordoned_hosts.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

constexpr size_t kHostsMax = 4096;
constexpr size_t kNameBytesMax = 256;

}  // namespace

absl::Status CordonedHosts::Cordon(const std::string& host) {
  if (host.empty() || host.size() > kNameBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a host's name has 1 to ", kNameBytesMax, " bytes"));
  }
  const std::lock_guard lock(mutex_);
  if (hosts_.size() >= kHostsMax && !hosts_.contains(host)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(kHostsMax, " hosts are cordoned already: uncordon some"));
  }
  hosts_.insert(host);
  return absl::OkStatus();
}

absl::Status CordonedHosts::Uncordon(const std::string& host) {
  const std::lock_guard lock(mutex_);
  if (hosts_.erase(host) > 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("host ", absl::CHexEscape(host), " is not cordoned"));
}

absl::Status CordonedHosts::Check(const std::string& host) const {
  const std::lock_guard lock(mutex_);
  if (!hosts_.contains(host)) return absl::OkStatus();
  const std::string name = absl::CHexEscape(host);
  return absl::FailedPreconditionError(absl::StrCat(
      "host ", name, " is drained: its workers may join after `trireme uncordon ", name, "`"));
}

std::vector<std::string> CordonedHosts::List() const {
  const std::lock_guard lock(mutex_);
  return {hosts_.begin(), hosts_.end()};
}

}  // namespace trireme
