#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/gguf_file.h"

namespace trireme {

// What stands before the data of one GGUF file: magic "GGUF", version, counts, metadata, and the
// tensors' table. Views point into the file.
struct GgufHeader {
  std::vector<std::pair<std::string_view, GgufValue>> metadata;  // sorted by key
  std::vector<GgufTensor> tensors;                               // in the file's order
};

// Reads and checks one file; `origin` names it in errors. Allocates at most some MiB, whatever its
// counts claim: for numbers of keys and tensors that models have, and nothing for lists.
absl::StatusOr<GgufHeader> ParseGgufHeader(std::span<const std::byte> file,
                                           const std::string& origin);

}  // namespace trireme
