#include "parallel/gguf_file.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "parallel/gguf_header.h"

namespace trireme {
namespace {

constexpr std::string_view kEnding = ".gguf";
constexpr int64_t kPartsMax = 99999;  // five digits in the name
constexpr int64_t kTensorsMax = int64_t{1} << 40;

template <typename T>
T ReadAt(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

template <typename Wide, typename Stored>
std::vector<Wide> Widened(const GgufList& list) {
  std::vector<Wide> values(list.size);
  for (uint64_t i = 0; i < list.size; ++i) {
    values[i] = static_cast<Wide>(ReadAt<Stored>(list.data + i * sizeof(Stored)));
  }
  return values;
}

// Nothing for a list of anything else.
std::optional<std::vector<int64_t>> AsWholes(const GgufList& list) {
  switch (list.type) {
    case GgufValueType::kUint8:
      return Widened<int64_t, uint8_t>(list);
    case GgufValueType::kInt8:
      return Widened<int64_t, int8_t>(list);
    case GgufValueType::kUint16:
      return Widened<int64_t, uint16_t>(list);
    case GgufValueType::kInt16:
      return Widened<int64_t, int16_t>(list);
    case GgufValueType::kUint32:
      return Widened<int64_t, uint32_t>(list);
    case GgufValueType::kInt32:
      return Widened<int64_t, int32_t>(list);
    case GgufValueType::kUint64:
      return Widened<int64_t, uint64_t>(list);
    case GgufValueType::kInt64:
      return Widened<int64_t, int64_t>(list);
    default:
      return std::nullopt;
  }
}

std::optional<std::vector<uint8_t>> AsFlags(const GgufList& list) {
  if (list.type == GgufValueType::kBool) return Widened<uint8_t, uint8_t>(list);
  const std::optional<std::vector<int64_t>> wholes = AsWholes(list);
  if (!wholes.has_value()) return std::nullopt;
  std::vector<uint8_t> flags;
  for (const int64_t whole : *wholes) flags.push_back(whole != 0);
  return flags;
}

std::optional<std::vector<double>> AsReals(const GgufList& list) {
  if (list.type == GgufValueType::kFloat32) return Widened<double, float>(list);
  if (list.type == GgufValueType::kFloat64) return Widened<double, double>(list);
  return std::nullopt;
}

std::optional<std::vector<std::string_view>> AsStrings(const GgufList& list) {
  if (list.type != GgufValueType::kString) return std::nullopt;
  std::vector<std::string_view> texts(list.size);
  const std::byte* at = list.data;
  for (std::string_view& text : texts) {
    const auto bytes = ReadAt<uint64_t>(at);
    text = {reinterpret_cast<const char*>(at) + sizeof(bytes), bytes};
    at += sizeof(bytes) + bytes;
  }
  return texts;
}

// "whole numbers" and the like.
const char* ElementsName(GgufValueType type) {
  switch (type) {
    case GgufValueType::kFloat32:
    case GgufValueType::kFloat64:
      return "numbers";
    case GgufValueType::kString:
      return "strings";
    case GgufValueType::kBool:
      return "booleans";
    default:
      return "whole numbers";
  }
}

// The text of a value for an error message: short and on one line.
std::string Excerpt(const GgufValue& value) {
  struct Visitor {
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(int64_t v) const { return absl::StrCat(v); }
    std::string operator()(double v) const { return absl::StrCat(v); }
    std::string operator()(std::string_view v) const { return Quoted(v); }
    std::string operator()(const GgufList& v) const {
      return absl::StrCat("a list of ", v.size, " ", ElementsName(v.type));
    }
  };
  return std::visit(Visitor{}, value);
}

absl::Status Invalid(const std::string& origin, std::string_view key, const GgufValue* value,
                     const std::string& hint) {
  return absl::InvalidArgumentError(absl::StrCat(
      origin, ": ", std::string(key),
      value == nullptr ? " is missing" : absl::StrCat(" is ", Excerpt(*value)), "; ", hint));
}

template <typename T>
absl::StatusOr<std::vector<T>> ListOf(const GgufFile& file, std::string_view key, const char* of,
                                      std::optional<std::vector<T>> (*read)(const GgufList&)) {
  const GgufValue* value = file.Find(key);
  if (value == nullptr) return std::vector<T>();
  if (const auto* list = std::get_if<GgufList>(value)) {
    if (std::optional<std::vector<T>> values = read(*list)) return *std::move(values);
  }
  return Invalid(file.origin(), key, value, absl::StrCat("it must be a list of ", of));
}

// The name of a part of a split model: NAME-00002-of-00003.gguf
std::filesystem::path PartPath(const std::filesystem::path& directory, const std::string& name,
                               int64_t part, int64_t count) {
  return directory / absl::StrFormat("%s-%05d-of-%05d%s", name, part, count, std::string(kEnding));
}

// NAME, if the path is one of so many parts by its name.
std::optional<std::string> SplitName(const std::filesystem::path& path, int64_t count) {
  const std::string file = path.filename().string();
  const std::string ending = absl::StrFormat("-of-%05d%s", count, std::string(kEnding));
  constexpr size_t kPartBytes = 6;  // "-00001"
  if (file.size() <= ending.size() + kPartBytes || !file.ends_with(ending)) return std::nullopt;
  return file.substr(0, file.size() - ending.size() - kPartBytes);
}

}  // namespace

bool IsGgufPath(const std::filesystem::path& path) { return path.extension() == kEnding; }

// What all copies share.
struct GgufFile::Contents {
  std::string origin;
  std::vector<MappedFile> files;  // none if the bytes are the caller's
  GgufHeader header;              // of the first part, with the tensors of all
  std::vector<uint32_t> by_name;  // indices of header.tensors

  // Adds the parts behind the first. Their metadata says no more than which part they are.
  absl::Status AddParts(const GgufFile& first, const std::filesystem::path& path);
  absl::Status IndexTensors();
};

absl::Status GgufFile::Contents::AddParts(const GgufFile& first,
                                          const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const int64_t count, first.Whole("split.count", 0, kPartsMax, 0));
  if (count <= 1) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t number, first.Whole("split.no", 0, count - 1));
  const std::optional<std::string> name = SplitName(path, count);
  if (!name.has_value()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: it is a part of a model in %d files, whose names must end in -00001-of-%05d%s and so "
        "on; give them the names they were published with",
        origin, count, count, std::string(kEnding)));
  }
  const std::filesystem::path directory = path.parent_path();
  if (number != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(origin, ": it is part ", number + 1, " of ", count, " of a model; give the ",
                     "first: ", PartPath(directory, *name, 1, count).string()));
  }
  ASSIGN_OR_RETURN(const int64_t tensors, first.Whole("split.tensors.count", 0, kTensorsMax,
                                                      static_cast<int64_t>(header.tensors.size())));
  for (int64_t part = 2; part <= count; ++part) {
    const std::filesystem::path part_path = PartPath(directory, *name, part, count);
    absl::StatusOr<MappedFile> file = MappedFile::Open(part_path);
    if (absl::IsNotFound(file.status())) {
      return absl::NotFoundError(absl::StrCat(part_path.string(), ": part ", part, " of ", count,
                                              " of the model is missing; fetch all of them"));
    }
    RETURN_IF_ERROR(file.status());
    ASSIGN_OR_RETURN(const GgufFile parsed, Parse(file->bytes(), part_path.string()));
    RETURN_IF_ERROR(parsed.Whole("split.no", part - 1, part - 1).status());
    RETURN_IF_ERROR(parsed.Whole("split.count", count, count).status());
    header.tensors.insert(header.tensors.end(), parsed.tensors().begin(), parsed.tensors().end());
    files.push_back(*std::move(file));
  }
  if (first.Has("split.tensors.count") && static_cast<int64_t>(header.tensors.size()) != tensors) {
    return absl::InvalidArgumentError(absl::StrCat(
        origin, ": split.tensors.count is ", tensors, ", but the ", count, " parts have ",
        header.tensors.size(), " tensors; they do not belong together, fetch all of them again"));
  }
  return IndexTensors();
}

absl::Status GgufFile::Contents::IndexTensors() {
  const std::vector<GgufTensor>& tensors = header.tensors;
  by_name.resize(tensors.size());
  std::iota(by_name.begin(), by_name.end(), 0U);
  std::sort(by_name.begin(), by_name.end(),
            [&](uint32_t a, uint32_t b) { return tensors[a].name < tensors[b].name; });
  const auto twice = std::adjacent_find(
      by_name.begin(), by_name.end(),
      [&](uint32_t a, uint32_t b) { return tensors[a].name == tensors[b].name; });
  if (twice == by_name.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(origin, ": the tensor ",
                                                 Quoted(tensors[*twice].name),
                                                 " is there twice; the file is damaged, fetch it "
                                                 "again"));
}

absl::StatusOr<GgufFile> GgufFile::Open(const std::filesystem::path& path) {
  auto contents = std::make_shared<Contents>();
  contents->origin = path.string();
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  ASSIGN_OR_RETURN(contents->header, ParseGgufHeader(file.bytes(), contents->origin));
  contents->files.push_back(std::move(file));
  RETURN_IF_ERROR(contents->IndexTensors());
  RETURN_IF_ERROR(contents->AddParts(GgufFile(contents), path));
  return GgufFile(std::move(contents));
}

absl::StatusOr<GgufFile> GgufFile::Parse(std::span<const std::byte> file, std::string origin) {
  auto contents = std::make_shared<Contents>();
  contents->origin = std::move(origin);
  ASSIGN_OR_RETURN(contents->header, ParseGgufHeader(file, contents->origin));
  RETURN_IF_ERROR(contents->IndexTensors());
  return GgufFile(std::move(contents));
}

const std::string& GgufFile::origin() const { return contents_->origin; }

const GgufValue* GgufFile::Find(std::string_view key) const {
  const auto& metadata = contents_->header.metadata;
  const auto found =
      std::lower_bound(metadata.begin(), metadata.end(), key,
                       [](const auto& entry, std::string_view k) { return entry.first < k; });
  return found == metadata.end() || found->first != key ? nullptr : &found->second;
}

absl::StatusOr<int64_t> GgufFile::Whole(std::string_view key, int64_t min, int64_t max,
                                        std::optional<int64_t> fallback) const {
  const GgufValue* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  const int64_t* number = value == nullptr ? nullptr : std::get_if<int64_t>(value);
  if (number == nullptr || *number < min || *number > max) {
    return Invalid(origin(), key, value,
                   min == max ? absl::StrCat("it must be ", min)
                              : absl::StrCat("it must be a whole number from ", min, " to ", max));
  }
  return *number;
}

absl::StatusOr<double> GgufFile::Real(std::string_view key, double min, double max,
                                      std::optional<double> fallback) const {
  const GgufValue* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  std::optional<double> number;
  if (value != nullptr) {
    if (const auto* real = std::get_if<double>(value)) number = *real;
    if (const auto* whole = std::get_if<int64_t>(value)) number = static_cast<double>(*whole);
  }
  if (!number.has_value() || !(*number >= min && *number <= max)) {
    return Invalid(origin(), key, value,
                   absl::StrCat("it must be a number from ", min, " to ", max));
  }
  return *number;
}

absl::StatusOr<bool> GgufFile::Bool(std::string_view key, bool fallback) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return fallback;
  if (const bool* truth = std::get_if<bool>(value)) return *truth;
  return Invalid(origin(), key, value, "it must be true or false");
}

absl::StatusOr<std::string_view> GgufFile::String(std::string_view key,
                                                  std::optional<std::string_view> fallback) const {
  const GgufValue* value = Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  if (value != nullptr) {
    if (const auto* text = std::get_if<std::string_view>(value)) return *text;
  }
  return Invalid(origin(), key, value, "it must be a string");
}

absl::StatusOr<std::vector<std::string_view>> GgufFile::Strings(std::string_view key) const {
  return ListOf(*this, key, "strings", AsStrings);
}

absl::StatusOr<std::vector<double>> GgufFile::Reals(std::string_view key) const {
  return ListOf(*this, key, "numbers", AsReals);
}

absl::StatusOr<std::vector<int64_t>> GgufFile::Wholes(std::string_view key) const {
  return ListOf(*this, key, "whole numbers", AsWholes);
}

absl::StatusOr<std::vector<uint8_t>> GgufFile::Flags(std::string_view key) const {
  return ListOf(*this, key, "booleans", AsFlags);
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const std::vector<GgufTensor>& tensors = contents_->header.tensors;
  const std::vector<uint32_t>& by_name = contents_->by_name;
  const auto found =
      std::lower_bound(by_name.begin(), by_name.end(), name,
                       [&](uint32_t i, std::string_view n) { return tensors[i].name < n; });
  return found == by_name.end() || tensors[*found].name != name ? nullptr : &tensors[*found];
}

std::span<const GgufTensor> GgufFile::tensors() const { return contents_->header.tensors; }

}  // namespace trireme
