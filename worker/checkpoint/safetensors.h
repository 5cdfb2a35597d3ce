#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/file.h"
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

// A tensor in a mapped file.
struct SafetensorsTensor {
  TensorInfo info;
  std::span<const std::byte> data;  // as long as the info says; may be at any address
  std::string file;                 // for messages
};

// The tensors of a checkpoint: DIR/model.safetensors, or the files that
// DIR/model.safetensors.index.json names, mapped read-only. Immutable, so thread safe.
class SafetensorsFiles {
 public:
  static absl::StatusOr<SafetensorsFiles> Open(const std::filesystem::path& dir);

  // The directory, for messages.
  const std::string& origin() const { return origin_; }
  // The tensor of this name, or nullptr.
  const SafetensorsTensor* Find(std::string_view name) const;
  const std::map<std::string, SafetensorsTensor, std::less<>>& tensors() const { return tensors_; }

 private:
  using WeightMap = std::map<std::string, std::vector<std::string>>;  // by file

  explicit SafetensorsFiles(std::string origin) : origin_(std::move(origin)) {}
  static absl::StatusOr<WeightMap> ReadIndex(const std::filesystem::path& path);
  absl::Status AddFile(const std::filesystem::path& path);
  absl::Status AddIndexed(const std::filesystem::path& dir, const WeightMap& weight_map);

  std::string origin_;
  std::vector<MappedFile> files_;
  std::map<std::string, SafetensorsTensor, std::less<>> tensors_;
};

// Copies rows of a tensor that is stored in one of our data types: Checkpoint::ReadBlocks for
// these files.
absl::Status ReadSafetensorsBlocks(const SafetensorsFiles& files, const TensorSlice& slice,
                                   int64_t first_row, int64_t rows,
                                   std::span<std::byte> destination);

// Where they lie: Checkpoint::Stretches for these files.
std::vector<std::span<const std::byte>> SafetensorsStretches(const SafetensorsFiles& files,
                                                             const TensorSlice& slice);

// A directory with such files.
bool HasSafetensors(const std::filesystem::path& dir);
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSafetensors(const std::filesystem::path& dir);

}  // namespace trireme
