#include "parallel/safetensors_types.h"

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/quoted.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

using nlohmann::json;
using Types = std::map<std::string, std::string, std::less<>>;

constexpr uint64_t kHeaderBytesMax = 100'000'000;  // the specification's own limit
constexpr size_t kIndexBytesMax = 64 << 20;
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

absl::Status Broken(const std::filesystem::path& path, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(path.string(), ": ", std::string(what), "; fetch the file again"));
}

absl::Status AddFile(const std::filesystem::path& path, Types& types) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  uint64_t header_bytes = 0;
  const auto bytes = file.bytes();
  if (bytes.size() < sizeof(header_bytes)) return Broken(path, "it is too short");
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > kHeaderBytesMax || header_bytes > bytes.size() - sizeof(header_bytes)) {
    return Broken(path, "its header is longer than the file");
  }
  const char* text = reinterpret_cast<const char*>(bytes.data()) + sizeof(header_bytes);
  const json header = json::parse(text, text + header_bytes, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) return Broken(path, "its header is not a JSON object");
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") continue;
    if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string()) {
      return Broken(path, absl::StrCat("tensor ", Quoted(name), " has no data type"));
    }
    types[name] = value["dtype"].get<std::string>();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::set<std::string>> IndexedFiles(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kIndexBytesMax));
  const json index = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return Broken(path, "it has no \"weight_map\" object");
  }
  std::set<std::string> files;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string() || file.get_ref<const std::string&>().find('/') != std::string::npos) {
      return Broken(path, absl::StrCat("tensor ", Quoted(tensor), " has no plain file name"));
    }
    files.insert(file.get<std::string>());
  }
  return files;
}

}  // namespace

bool HasSafetensorsFiles(const std::filesystem::path& dir) {
  std::error_code error;
  return std::filesystem::exists(dir / kSingleFile, error) ||
         std::filesystem::exists(dir / kIndexFile, error);
}

absl::StatusOr<Types> SafetensorsTypes(const std::filesystem::path& dir) {
  Types types;
  std::error_code error;
  if (std::filesystem::exists(dir / kSingleFile, error)) {
    RETURN_IF_ERROR(AddFile(dir / kSingleFile, types));
    return types;
  }
  ASSIGN_OR_RETURN(const std::set<std::string> files, IndexedFiles(dir / kIndexFile));
  for (const std::string& file : files) RETURN_IF_ERROR(AddFile(dir / file, types));
  return types;
}

}  // namespace trireme
