#include "base/listen_address.h"

#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace trireme {

absl::Status CheckListenAddress(const char* flag, const std::string& address, bool insecure) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        flag, " ", address, " is not HOST:PORT, for example 127.0.0.1:8001 or [::1]:8001"));
  }
  const std::string host = address.substr(0, colon);
  const bool loopback = host == "localhost" || host == "[::1]" || absl::StartsWith(host, "127.");
  if (loopback || insecure) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      flag, " ", address, " can be reached from other machines, without encryption or password; ",
      "add --insecure if the network is trusted"));
}

}  // namespace trireme
