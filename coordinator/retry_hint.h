#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace trireme {

// Errors that will pass carry this payload: milliseconds, in decimal, after which to try again.
inline constexpr const char* kRetryAfterMs = "retry-after-ms";

// For those who come while workers load or join anew: soon enough, and not a flood.
inline constexpr double kNoGangRetryMs = 2'000;

// The same error, with the time after which to try again.
inline absl::Status WithRetry(absl::Status status, double after_ms) {
  const auto whole_ms = static_cast<int64_t>(std::clamp(after_ms, 100.0, 600'000.0));
  status.SetPayload(kRetryAfterMs, absl::Cord(absl::StrCat(whole_ms)));
  return status;
}

}  // namespace trireme
