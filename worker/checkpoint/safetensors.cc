#include "worker/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "worker/checkpoint/slice.h"

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
  if (dtype == "F64" || dtype == "I64" || dtype == "U64" || dtype == "C64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL") return 1;
  if (dtype == "F8_E4M3" || dtype == "F8_E5M2" || dtype == "F8_E8M0") return 1;
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

// The header's JSON, refusing duplicate keys, of which the parser would silently keep the last.
absl::StatusOr<nlohmann::json> ParseHeader(std::string_view text, const std::string& origin) {
  constexpr int kDepthMax = 8;  // a header has three levels; what lies deeper is dropped
  std::array<std::set<std::string>, kDepthMax + 2> keys;  // of the object now open at each depth
  std::string duplicate;
  const auto track = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    if (depth > kDepthMax) return false;
    if (event == nlohmann::json::parse_event_t::object_start) {
      keys[static_cast<size_t>(depth) + 1].clear();
    } else if (event == nlohmann::json::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!keys[static_cast<size_t>(depth)].insert(key).second) duplicate = Quoted(key);
    }
    return true;
  };
  nlohmann::json header = nlohmann::json::parse(text.begin(), text.end(), track,
                                                /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object()) {
    return Broken(origin, "the header is not a JSON object");
  }
  if (!duplicate.empty()) {
    return Broken(origin, absl::StrCat("the header has the key ", duplicate, " twice"));
  }
  return header;
}

absl::StatusOr<uint64_t> SizeOf(const nlohmann::json& shape, uint64_t element_bytes,
                                const std::string& origin, const std::string& name) {
  uint64_t bytes = element_bytes;
  for (const nlohmann::json& dimension : shape) {
    const uint64_t size = dimension.get<uint64_t>();
    if (__builtin_mul_overflow(bytes, size, &bytes) || bytes > kTensorBytesMax ||
        size > kTensorBytesMax) {
      return Broken(origin, absl::StrCat("tensor ", Quoted(name), " has an impossible shape"));
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
    return Broken(origin, absl::StrCat("tensor ", Quoted(name),
                                       " lacks a valid dtype, shape or data_offsets"));
  }
  const std::string dtype = value["dtype"].get<std::string>();
  const std::optional<uint64_t> element_bytes = ElementBytes(dtype);
  if (!element_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(origin, ": unsupported: tensor ", Quoted(name),
                                                   " has data type ", Quoted(dtype)));
  }
  const uint64_t begin = value["data_offsets"][0].get<uint64_t>();
  const uint64_t end = value["data_offsets"][1].get<uint64_t>();
  if (begin > end || end > data_bytes) {
    return Broken(origin, absl::StrCat("tensor ", Quoted(name), " is at bytes ", begin, " to ", end,
                                       " of ", data_bytes, " bytes of data"));
  }
  ASSIGN_OR_RETURN(const uint64_t bytes, SizeOf(value["shape"], *element_bytes, origin, name));
  if (bytes != end - begin) {
    return Broken(origin, absl::StrCat("tensor ", Quoted(name), " has ", end - begin,
                                       " bytes, but its shape needs ", bytes));
  }
  SafetensorsEntry entry;
  for (const nlohmann::json& dimension : value["shape"]) {
    entry.info.shape.push_back(dimension.get<int64_t>());
  }
  entry.info.dtype = ComputeType(dtype).value_or(DType::kF32);
  entry.info.stored_type = dtype;
  entry.offset = data_start + begin;
  entry.bytes = bytes;
  return entry;
}

// The specification: the tensors fill the data without overlap, hole or rest.
absl::Status CheckFilled(std::vector<std::pair<uint64_t, uint64_t>> ranges, uint64_t data_bytes,
                         const std::string& origin) {
  std::sort(ranges.begin(), ranges.end());
  uint64_t end = 0;
  for (const auto& range : ranges) {
    if (range.first < end) return Broken(origin, "two tensors overlap");
    if (range.first > end) break;
    end = range.second;
  }
  if (end == data_bytes) return absl::OkStatus();
  return Broken(origin, absl::StrCat("no tensor has the data from byte ", end, " of ", data_bytes));
}

// The plain reader: tensors as they are stored.
class Safetensors final : public Checkpoint {
 public:
  explicit Safetensors(SafetensorsFiles files) : files_(std::move(files)) {}

  const std::string& origin() const override { return files_.origin(); }

  const TensorInfo* Find(std::string_view name) const override {
    const SafetensorsTensor* tensor = files_.Find(name);
    return tensor == nullptr ? nullptr : &tensor->info;
  }

  absl::Status ReadBlocks(const TensorSlice& slice, int64_t first_row, int64_t rows,
                          std::span<std::byte> destination) const override {
    RETURN_IF_ERROR(ReadSafetensorsBlocks(files_, slice, first_row, rows, destination));
    bytes_read_ += destination.size();
    return absl::OkStatus();
  }

  std::vector<std::span<const std::byte>> Stretches(const TensorSlice& slice) const override {
    return SafetensorsStretches(files_, slice);
  }

  uint64_t bytes_read() const override { return bytes_read_; }

 private:
  const SafetensorsFiles files_;
  mutable std::atomic<uint64_t> bytes_read_{0};
};

bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name.front() != '.' && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
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
    const uint64_t begin = entry.offset - data_start;
    ranges.emplace_back(begin, begin + entry.bytes);
    entries.emplace(name, std::move(entry));
  }
  RETURN_IF_ERROR(CheckFilled(std::move(ranges), file.size() - data_start, origin));
  return entries;
}

absl::StatusOr<SafetensorsFiles> SafetensorsFiles::Open(const std::filesystem::path& dir) {
  SafetensorsFiles files(dir.string());
  std::error_code error;
  if (std::filesystem::exists(dir / kSingleFile, error)) {
    RETURN_IF_ERROR(files.AddFile(dir / kSingleFile));
    return files;
  }
  ASSIGN_OR_RETURN(const WeightMap weight_map, ReadIndex(dir / kIndexFile));
  RETURN_IF_ERROR(files.AddIndexed(dir, weight_map));
  return files;
}

const SafetensorsTensor* SafetensorsFiles::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

absl::StatusOr<SafetensorsFiles::WeightMap> SafetensorsFiles::ReadIndex(
    const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kIndexBytesMax));
  const nlohmann::json index = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return Broken(path.string(), "no \"weight_map\" object");
  }
  WeightMap files;
  for (const auto& [tensor, value] : index["weight_map"].items()) {
    if (!value.is_string()) {
      return Broken(path.string(), absl::StrCat("no file name for tensor ", Quoted(tensor)));
    }
    const std::string& file = value.get_ref<const std::string&>();
    if (!IsPlainFileName(file)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path.string(), ": ", Quoted(file),
                       " is not a plain file name in the checkpoint's directory"));
    }
    files[file].push_back(tensor);
  }
  return files;
}

// Adds all tensors of one file.
absl::Status SafetensorsFiles::AddFile(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  ASSIGN_OR_RETURN(Entries entries, ParseSafetensors(file.bytes(), path.string()));
  for (auto& [name, entry] : entries) {
    SafetensorsTensor tensor{.info = std::move(entry.info),
                             .data = file.bytes().subspan(entry.offset, entry.bytes),
                             .file = path.string()};
    if (!tensors_.try_emplace(name, std::move(tensor)).second) {
      return Broken(path.string(), absl::StrCat("tensor ", Quoted(name),
                                                " is in another file of the checkpoint too"));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

// Adds the files of an index, and checks that each tensor is where the index says.
absl::Status SafetensorsFiles::AddIndexed(const std::filesystem::path& dir,
                                          const WeightMap& weight_map) {
  for (const auto& [file, tensors] : weight_map) {
    const absl::Status added = AddFile(dir / file);
    if (absl::IsNotFound(added)) {
      return absl::NotFoundError(
          absl::StrCat(added.message(), "; ", kIndexFile, " names it, fetch the whole checkpoint"));
    }
    RETURN_IF_ERROR(added);
    for (const std::string& name : tensors) {
      const SafetensorsTensor* found = Find(name);
      if (found != nullptr && found->file == (dir / file).string()) continue;
      return Broken((dir / file).string(), absl::StrCat("no tensor ", Quoted(name), ", which ",
                                                        kIndexFile, " says is here"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadSafetensorsBlocks(const SafetensorsFiles& files, const TensorSlice& slice,
                                   int64_t first_row, int64_t rows,
                                   std::span<std::byte> destination) {
  const SafetensorsTensor* tensor = files.Find(slice.name);
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.origin(), ": tensor ", Quoted(slice.name), " is missing"));
  }
  if (!ComputeType(tensor->info.stored_type)) {
    return absl::UnimplementedError(absl::StrCat(
        tensor->file, ": unsupported: tensor ", Quoted(slice.name), " has data type ",
        tensor->info.stored_type,
        ", expected F32, F16 or BF16; use an unquantised checkpoint, or one whose config.json has "
        "a supported quantization_config"));
  }
  RETURN_IF_ERROR(CheckSlice(slice, tensor->info, first_row, rows, destination.size(), tensor->file,
                             "config.json"));
  CopyRows(slice, {.dtype = tensor->info.dtype, .data = tensor->data}, first_row, rows,
           destination);
  return absl::OkStatus();
}

std::vector<std::span<const std::byte>> SafetensorsStretches(const SafetensorsFiles& files,
                                                             const TensorSlice& slice) {
  const SafetensorsTensor* tensor = files.Find(slice.name);
  if (tensor == nullptr || !ComputeType(tensor->info.stored_type)) return {};
  return SliceStretches(slice, tensor->info, tensor->data);
}

bool HasSafetensors(const std::filesystem::path& dir) {
  std::error_code error;
  return std::filesystem::exists(dir / kSingleFile, error) ||
         std::filesystem::exists(dir / kIndexFile, error);
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSafetensors(const std::filesystem::path& dir) {
  ASSIGN_OR_RETURN(SafetensorsFiles files, SafetensorsFiles::Open(dir));
  return std::make_unique<Safetensors>(std::move(files));
}

}  // namespace trireme
