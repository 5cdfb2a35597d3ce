#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace trireme {

// An amount of memory as an operator says it.
struct MemoryAmount {
  int64_t bytes = 0;
  double fraction = 0;     // if above 0, in place of bytes: of what is available
  bool as_needed = false;  // of all there is, but no more than the use asks for
};

// "2GiB", "512MB" (units are powers of 1024, in any case), "1000000" are bytes; "0.4" and "40%" are
// fractions, above 0 and at most 1. "auto" is as much as is needed, up to a quarter, "auto/N" up to
// an Nth of that, for one of N gangs that share a host. INVALID_ARGUMENT for anything else.
absl::StatusOr<MemoryAmount> ParseMemoryAmount(std::string_view text);

}  // namespace trireme
