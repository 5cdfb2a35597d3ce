#include "worker/checkpoint/safetensors.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

using Entries = std::map<std::string, SafetensorsEntry, std::less<>>;

constexpr uint64_t kHeaderBytesMax = 100'000'000;  // the specification's own limit
constexpr size_t kIndexBytesMax = 64 << 20;
constexpr uint64_t kTensorBytesMax = uint64_t{1} << 48;
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

absl::Status Broken(const std::string& origin, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(origin, ": ", what, "; the file is damaged or incomplete, fetch it again"));
}

// Bytes of one element of a data type of the format, or nullopt if the format has no such type.
std::optional<uint64_t> ElementBytes(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL") return 1;
  if (dtype == "F8_E4M3" || dtype == "F8_E5M2") return 1;
  return std::nullopt;
}

std::optional<DType> ComputeType(const std::string& dtype) {
  if (dtype == "F32") return DType::kF32;
  if (dtype == "F16") return DType::kF16;
  if (dtype == "BF16") return DType::kBF16;
  return std::nullopt;
}

bool IsUnsignedArray(const nlohmann::json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const nlohmann::json& v) {
           return v.is_number_unsigned();
         });
}

// The header's JSON, refusing duplicate names, which the parser would silently merge.
absl::StatusOr<nlohmann::json> ParseHeader(std::string_view text, const std::string& origin) {
  std::set<std::string> names;
  bool duplicate = false;
  const auto track = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    if (event == nlohmann::json::parse_event_t::key && depth == 1) {
      duplicate |= !names.insert(parsed.get<std::string>()).second;
    }
    return depth <= 8;
  };
  nlohmann::json header = nlohmann::json::parse(text.begin(), text.end(), track,
                                                /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object()) {
    return Broken(origin, "the header is not a JSON object");
  }
  if (duplicate) return Broken(origin, "the header names a tensor twice");
  return header;
}

absl::StatusOr<uint64_t> SizeOf(const nlohmann::json& shape, uint64_t element_bytes,
                                const std::string& origin, const std::string& name) {
  uint64_t bytes = element_bytes;
  for (const nlohmann::json& dimension : shape) {
    const uint64_t size = dimension.get<uint64_t>();
    if (__builtin_mul_overflow(bytes, size, &bytes) || bytes > kTensorBytesMax ||
        size > kTensorBytesMax) {
      return Broken(origin, absl::StrCat("tensor \"", name, "\" has an impossible shape"));
    }
  }
  return bytes;
}

// One entry of the header; offsets are relative to the data's start.
absl::StatusOr<SafetensorsEntry> ParseEntry(const std::string& name, const nlohmann::json& value,
                                            uint64_t data_start, uint64_t data_bytes,
                                            const std::string& origin) {
  if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() ||
      !value.contains("shape") || !IsUnsignedArray(value["shape"]) ||
      !value.contains("data_offsets") || !IsUnsignedArray(value["data_offsets"]) ||
      value["data_offsets"].size() != 2 || value["shape"].size() > 8) {
    return Broken(origin,
                  absl::StrCat("tensor \"", name, "\" lacks a valid dtype, shape or data_offsets"));
  }
  const std::string dtype = value["dtype"].get<std::string>();
  const std::optional<uint64_t> element_bytes = ElementBytes(dtype);
  if (!element_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("unsupported: ", origin, ": tensor \"", name,
                                                   "\" has data type ", dtype.substr(0, 32)));
  }
  const uint64_t begin = value["data_offsets"][0].get<uint64_t>();
  const uint64_t end = value["data_offsets"][1].get<uint64_t>();
  if (begin > end || end > data_bytes) {
    return Broken(origin, absl::StrCat("tensor \"", name, "\" ends at byte ", end, " of ",
                                       data_bytes, " bytes of data"));
  }
  ASSIGN_OR_RETURN(const uint64_t bytes, SizeOf(value["shape"], *element_bytes, origin, name));
  if (bytes != end - begin) {
    return Broken(origin, absl::StrCat("tensor \"", name, "\" has ", end - begin,
                                       " bytes, but its shape needs ", bytes));
  }
  SafetensorsEntry entry;
  for (const nlohmann::json& dimension : value["shape"]) {
    entry.info.shape.push_back(dimension.get<int64_t>());
  }
  entry.info.dtype = ComputeType(dtype).value_or(DType::kF32);
  entry.offset = data_start + begin;
  entry.bytes = bytes;
  return entry;
}

absl::Status CheckOverlap(std::vector<std::pair<uint64_t, uint64_t>> ranges,
                          const std::string& origin) {
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) {
      return Broken(origin, "two tensors overlap");
    }
  }
  return absl::OkStatus();
}

// Where one tensor of a checkpoint is.
struct Located {
  SafetensorsEntry entry;
  size_t file = 0;
};

class Safetensors final : public Checkpoint {
 public:
  explicit Safetensors(std::string origin) : origin_(std::move(origin)) {}

  // Adds all tensors of one file.
  absl::Status AddFile(const std::filesystem::path& path) {
    ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
    ASSIGN_OR_RETURN(Entries entries, ParseSafetensors(file.bytes(), path.string()));
    for (auto& [name, entry] : entries) {
      if (!tensors_.try_emplace(name, Located{std::move(entry), files_.size()}).second) {
        return Broken(path.string(), absl::StrCat("tensor \"", name,
                                                  "\" is in another file of the checkpoint too"));
      }
    }
    files_.push_back(std::move(file));
    return absl::OkStatus();
  }

  const std::string& origin() const override { return origin_; }

  const TensorInfo* Find(std::string_view name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second.entry.info;
  }

  absl::Status Read(const TensorSlice& slice, std::span<std::byte> destination) const override {
    const auto found = tensors_.find(slice.name);
    if (found == tensors_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(origin_, ": tensor \"", slice.name, "\" is missing"));
    }
    const auto& [entry, file_index] = found->second;
    const MappedFile& file = files_[file_index];
    const std::vector<int64_t> expected =
        slice.is_vector ? std::vector<int64_t>{slice.full_cols}
                        : std::vector<int64_t>{slice.full_rows, slice.full_cols};
    if (entry.info.shape != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path().string(), ": tensor \"", slice.name, "\" has shape [",
                       absl::StrJoin(entry.info.shape, ", "), "], but config.json makes it [",
                       absl::StrJoin(expected, ", "), "]; they do not belong together"));
    }
    const size_t element = DTypeBytes(entry.info.dtype);
    const size_t row_bytes = static_cast<size_t>(slice.cols.size()) * element;
    if (destination.size() != row_bytes * static_cast<size_t>(slice.rows.size())) {
      return absl::InternalError("destination does not have the slice's size");
    }
    const std::byte* base = file.bytes().data() + entry.offset;
    if (slice.cols.size() == slice.full_cols) {
      const size_t offset = static_cast<size_t>(slice.rows.begin) * row_bytes;
      std::memcpy(destination.data(), base + offset, destination.size());
    } else {
      const size_t stride = static_cast<size_t>(slice.full_cols) * element;
      const std::byte* from = base + static_cast<size_t>(slice.rows.begin) * stride +
                              static_cast<size_t>(slice.cols.begin) * element;
      for (std::byte* to = destination.data(); to < destination.data() + destination.size();
           to += row_bytes, from += stride) {
        std::memcpy(to, from, row_bytes);
      }
    }
    bytes_read_ += destination.size();
    return absl::OkStatus();
  }

  uint64_t bytes_read() const override { return bytes_read_; }

 private:
  const std::string origin_;
  std::vector<MappedFile> files_;
  std::map<std::string, Located, std::less<>> tensors_;
  mutable std::atomic<uint64_t> bytes_read_{0};
};

// The file names of an index, each once.
absl::StatusOr<std::set<std::string>> ReadIndex(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kIndexBytesMax));
  const nlohmann::json index = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return Broken(path.string(), "no \"weight_map\" object");
  }
  std::set<std::string> files;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string())
      return Broken(path.string(), "\"weight_map\" has a value that is no text");
    const std::string name = file.get<std::string>();
    if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(path.string(), ": \"", name,
                       "\" is not a plain file name in the checkpoint's directory"));
    }
    files.insert(name);
  }
  return files;
}

}  // namespace

absl::StatusOr<Entries> ParseSafetensors(std::span<const std::byte> file,
                                         const std::string& origin) {
  uint64_t header_bytes = 0;
  if (file.size() < sizeof(header_bytes)) {
    return Broken(origin, absl::StrCat("only ", file.size(), " bytes long"));
  }
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  if (header_bytes > kHeaderBytesMax || header_bytes > file.size() - sizeof(header_bytes)) {
    return Broken(origin, absl::StrCat("its header claims ", header_bytes, " bytes of a file of ",
                                       file.size()));
  }
  const uint64_t data_start = sizeof(header_bytes) + header_bytes;
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof(header_bytes),
                              header_bytes);
  ASSIGN_OR_RETURN(const nlohmann::json header, ParseHeader(text, origin));
  Entries entries;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") continue;
    ASSIGN_OR_RETURN(SafetensorsEntry entry,
                     ParseEntry(name, value, data_start, file.size() - data_start, origin));
    if (entry.bytes > 0) ranges.emplace_back(entry.offset, entry.offset + entry.bytes);
    if (ComputeType(value["dtype"].get<std::string>())) entries.emplace(name, std::move(entry));
  }
  RETURN_IF_ERROR(CheckOverlap(std::move(ranges), origin));
  return entries;
}

bool HasSafetensors(const std::filesystem::path& dir) {
  std::error_code error;
  return std::filesystem::exists(dir / kSingleFile, error) ||
         std::filesystem::exists(dir / kIndexFile, error);
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSafetensors(const std::filesystem::path& dir) {
  auto checkpoint = std::make_unique<Safetensors>(dir.string());
  std::error_code error;
  if (std::filesystem::exists(dir / kSingleFile, error)) {
    RETURN_IF_ERROR(checkpoint->AddFile(dir / kSingleFile));
    return checkpoint;
  }
  ASSIGN_OR_RETURN(const std::set<std::string> files, ReadIndex(dir / kIndexFile));
  for (const std::string& file : files) RETURN_IF_ERROR(checkpoint->AddFile(dir / file));
  return checkpoint;
}

}  // namespace trireme
