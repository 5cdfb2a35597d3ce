#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "worker/checkpoint/checkpoint.h"

namespace trireme {

// A tensor's place in a safetensors file.
struct SafetensorsEntry {
  TensorInfo info;
  uint64_t offset = 0;  // from the start of the file
  uint64_t bytes = 0;
};

// The table of contents of one file: 8 bytes little-endian header length, a JSON header
// {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}, then the data.
// Specification: https://huggingface.co/docs/safetensors. Checks every bound, that the tensors fill
// the data without overlap or hole, that no key comes twice, and that sizes agree with shapes.
// Tensors of any type of the format may be in the file. `origin` names the file in errors.
absl::StatusOr<std::map<std::string, SafetensorsEntry, std::less<>>> ParseSafetensors(
    std::span<const std::byte> file, const std::string& origin);

// DIR/model.safetensors, or the files that DIR/model.safetensors.index.json names.
bool HasSafetensors(const std::filesystem::path& dir);
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSafetensors(const std::filesystem::path& dir);

}  // namespace trireme
