#pragma once

#include <filesystem>

#include "absl/status/status.h"

namespace trireme {

// --verify-checksum: reads the files of a model from end to end and compares them with SHA256SUMS
// beside them, which `sha256sum FILE... > SHA256SUMS` writes: a line "HEX  NAME" a file. The files
// are a directory's config.json, index and all .safetensors files, or a .gguf file with its parts;
// others that are listed are not read. INVALID_ARGUMENT, naming the file, if one is not as listed,
// or not listed; NOT_FOUND without SHA256SUMS. Uses `threads` threads, a file each.
absl::Status VerifyChecksums(const std::filesystem::path& model, int threads);

}  // namespace trireme
