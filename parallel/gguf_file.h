#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

// GGUF's numbers of what a value is.
enum class GgufValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

// A checked list as it lies in the mapped file: a file can have lists nearly as large as itself, of
// one byte or empty strings, that would be many times that as int64_t or views.
struct GgufList {
  GgufValueType type = GgufValueType::kBool;
  uint64_t size = 0;
  const std::byte* data = nullptr;

  bool operator==(const GgufList&) const = default;
};

// One value of a GGUF file's metadata. Whole numbers of every width become int64_t (a uint64 above
// 2^63 - 1 is refused), float32 and float64 become double. Strings are views into the mapped file.
// Lists are of one type; lists of lists are refused.
using GgufValue = std::variant<bool, int64_t, double, std::string_view, GgufList>;

// A tensor's place: `data` lies in the mapped file; it is empty for a type whose size we do not
// know.
struct GgufTensor {
  std::string_view name;
  uint32_t type = 0;           // GGML's number of its type
  std::vector<int64_t> shape;  // row-major: the last is that of consecutive elements (GGUF's first)
  std::span<const std::byte> data;
};

// GGML's name of a type, for example "Q4_K", or "type 77" for one we do not know.
std::string GgufTypeName(uint32_t type);

// True if the path names a .gguf file (by its ending).
bool IsGgufPath(const std::filesystem::path& path);

// A model in a GGUF file, version 3 (and 2, which reads the same), mapped read-only: metadata and
// the places of the tensors. A split model ("NAME-00001-of-00003.gguf") is opened by its first part
// and has the tensors of all. Specification:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
//
// Every count, length, offset and alignment is checked against the file's size before use; reading
// allocates no more than 16 MiB of each part, whatever the counts are. Errors name the file and the
// key or tensor. Immutable, so thread safe; views live as long as the object or a copy of it
// (copies are cheap and share the mapping).
class GgufFile {
 public:
  static absl::StatusOr<GgufFile> Open(const std::filesystem::path& path);
  // One part in memory, which outlives the object; for tests and fuzzing.
  static absl::StatusOr<GgufFile> Parse(std::span<const std::byte> file, std::string origin);

  const std::string& origin() const;

  // The value, or nullptr.
  const GgufValue* Find(std::string_view key) const;
  bool Has(std::string_view key) const { return Find(key) != nullptr; }

  // Typed and bounded; without a fallback an absent key is an error. Errors name file, key, what
  // was found and what is accepted.
  absl::StatusOr<int64_t> Whole(std::string_view key, int64_t min, int64_t max,
                                std::optional<int64_t> fallback = std::nullopt) const;
  absl::StatusOr<double> Real(std::string_view key, double min, double max,
                              std::optional<double> fallback = std::nullopt) const;
  absl::StatusOr<bool> Bool(std::string_view key, bool fallback) const;
  absl::StatusOr<std::string_view> String(
      std::string_view key, std::optional<std::string_view> fallback = std::nullopt) const;
  // Empty lists where the key is absent.
  absl::StatusOr<std::vector<std::string_view>> Strings(std::string_view key) const;
  absl::StatusOr<std::vector<double>> Reals(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Wholes(std::string_view key) const;
  // 1 for what is true, or a whole number other than 0.
  absl::StatusOr<std::vector<uint8_t>> Flags(std::string_view key) const;

  // The tensor of this name in any part, or nullptr.
  const GgufTensor* FindTensor(std::string_view name) const;
  std::span<const GgufTensor> tensors() const;

 private:
  struct Contents;
  explicit GgufFile(std::shared_ptr<const Contents> contents) : contents_(std::move(contents)) {}

  std::shared_ptr<const Contents> contents_;
};

}  // namespace trireme
