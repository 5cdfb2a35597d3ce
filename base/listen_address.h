#pragma once

#include <string>

#include "absl/status/status.h"

namespace trireme {

// INVALID_ARGUMENT unless `address` is HOST:PORT (port 0: a free one) and either leads nowhere but
// to this host or may be `insecure`. `flag` is what the user calls it.
absl::Status CheckListenAddress(const char* flag, const std::string& address, bool insecure);

}  // namespace trireme
