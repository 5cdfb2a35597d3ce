#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace trireme {

// Tells whether files on two hosts are the same, without reading them whole: their size and a
// 64-bit FNV-1a hash of it and the first MiB, for example "0123456789abcdef, 1234 bytes". By
// mistake, that is, not by malice. Errors name the file.
absl::StatusOr<std::string> FileFingerprint(const std::filesystem::path& path);

}  // namespace trireme
