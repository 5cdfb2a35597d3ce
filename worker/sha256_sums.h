#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace trireme {

// By file name: the digest in lower-case hex.
using Sha256Sums = std::map<std::string, std::string>;

// The text of a SHA256SUMS file; `origin` names it in errors. INVALID_ARGUMENT says which line is
// none of sha256sum's.
absl::StatusOr<Sha256Sums> ParseSha256Sums(std::string_view text, std::string_view origin);

}  // namespace trireme
