#include "parallel/gguf_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "parallel/gguf_types.h"

namespace trireme {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF's numbers are little-endian");

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint32_t kDimensionsMax = 4;
constexpr uint64_t kElementsMax = uint64_t{1} << 48;
constexpr int64_t kAlignmentDefault = 32;
constexpr int64_t kAlignmentMax = 1 << 30;
constexpr std::string_view kAlignmentKey = "general.alignment";

// The least bytes of an entry, so that a count can be judged before anything is allocated: a key
// and its smallest value; a name, one dimension, type and offset.
constexpr uint64_t kMetadataBytesMin = 8 + 4 + 1;
constexpr uint64_t kTensorBytesMin = 8 + 4 + 8 + 4 + 8;

// The largest models have some thousand tensors and less than a hundred keys.
constexpr uint64_t kEntriesMax = 1 << 16;

// Reads one file from front to back. The small steps return false where the file ends too early;
// those with a name to tell return a Status.
class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> file, const std::string& origin)
      : file_(file), origin_(origin) {}

  absl::StatusOr<GgufHeader> Read() {
    ASSIGN_OR_RETURN(const Counts counts, ReadCounts());
    GgufHeader header;
    RETURN_IF_ERROR(ReadMetadata(counts.metadata, header));
    ASSIGN_OR_RETURN(const uint64_t alignment, Alignment(header));
    std::vector<uint64_t> offsets;
    RETURN_IF_ERROR(ReadTensors(counts.tensors, alignment, header.tensors, offsets));
    RETURN_IF_ERROR(CheckNamesDiffer(header.tensors));
    RETURN_IF_ERROR(Place(alignment, offsets, header.tensors));
    return header;
  }

 private:
  struct Counts {
    uint64_t tensors = 0;
    uint64_t metadata = 0;
  };

  uint64_t remaining() const { return file_.size() - position_; }

  absl::Status Broken(const std::string& what) const {
    return absl::InvalidArgumentError(
        absl::StrCat(origin_, ": ", what, "; the file is damaged or incomplete, fetch it again"));
  }

  template <typename T>
  bool Take(T& value) {
    if (remaining() < sizeof(T)) return false;
    std::memcpy(&value, file_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return true;
  }

  bool TakeText(std::string_view& text) {
    uint64_t bytes = 0;
    if (!Take(bytes) || bytes > remaining()) return false;
    text = {reinterpret_cast<const char*>(file_.data()) + position_, bytes};
    position_ += bytes;
    return true;
  }

  absl::StatusOr<Counts> ReadCounts() {
    uint32_t magic = 0;
    uint32_t version = 0;
    if (!Take(magic) || magic != kMagic) {
      return absl::InvalidArgumentError(
          absl::StrCat(origin_, ": not a GGUF file: it does not begin with \"GGUF\""));
    }
    if (!Take(version)) return Broken("it ends inside its header");
    if (version != 0 && version % 65536 == 0) {
      return absl::UnimplementedError(absl::StrCat(
          origin_,
          ": unsupported: big-endian GGUF; convert it with gguf-py's gguf-convert-endian"));
    }
    if (version != 2 && version != 3) {
      return absl::UnimplementedError(absl::StrCat(origin_, ": unsupported: GGUF version ", version,
                                                   "; supported are 2 and 3"));
    }
    Counts counts;
    if (!Take(counts.tensors) || !Take(counts.metadata)) return Broken("it ends inside its header");
    if (counts.metadata > remaining() / kMetadataBytesMin) {
      return Broken(absl::StrCat("it claims ", counts.metadata, " metadata keys, but has only ",
                                 file_.size(), " bytes"));
    }
    if (counts.tensors > remaining() / kTensorBytesMin) {
      return Broken(absl::StrCat("it claims ", counts.tensors, " tensors, but has only ",
                                 file_.size(), " bytes"));
    }
    if (std::max(counts.metadata, counts.tensors) > kEntriesMax) {
      return absl::UnimplementedError(
          absl::StrCat(origin_, ": unsupported: ", counts.metadata, " metadata keys and ",
                       counts.tensors, " tensors; supported are up to ", kEntriesMax, " of each"));
    }
    return counts;
  }

  absl::Status ReadMetadata(uint64_t count, GgufHeader& header) {
    header.metadata.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      std::string_view key;
      uint32_t type = 0;
      if (!TakeText(key) || !Take(type)) {
        return Broken(absl::StrCat("it ends inside metadata key ", i + 1, " of ", count));
      }
      if (key.empty()) return Broken(absl::StrCat("metadata key ", i + 1, " has no name"));
      ASSIGN_OR_RETURN(GgufValue value, ReadValue(key, static_cast<GgufValueType>(type)));
      header.metadata.emplace_back(key, std::move(value));
    }
    const auto by_key = [](const auto& a, const auto& b) { return a.first < b.first; };
    std::sort(header.metadata.begin(), header.metadata.end(), by_key);
    const auto twice =
        std::adjacent_find(header.metadata.begin(), header.metadata.end(),
                           [](const auto& a, const auto& b) { return a.first == b.first; });
    if (twice == header.metadata.end()) return absl::OkStatus();
    return Broken(absl::StrCat("it has the key ", Quoted(twice->first), " twice"));
  }

  absl::StatusOr<GgufValue> ReadValue(std::string_view key, GgufValueType type) {
    switch (type) {
      case GgufValueType::kUint8:
        return ReadNumber<uint8_t>(key);
      case GgufValueType::kInt8:
        return ReadNumber<int8_t>(key);
      case GgufValueType::kUint16:
        return ReadNumber<uint16_t>(key);
      case GgufValueType::kInt16:
        return ReadNumber<int16_t>(key);
      case GgufValueType::kUint32:
        return ReadNumber<uint32_t>(key);
      case GgufValueType::kInt32:
        return ReadNumber<int32_t>(key);
      case GgufValueType::kUint64:
        return ReadNumber<uint64_t>(key);
      case GgufValueType::kInt64:
        return ReadNumber<int64_t>(key);
      case GgufValueType::kFloat32:
        return ReadNumber<float>(key);
      case GgufValueType::kFloat64:
        return ReadNumber<double>(key);
      case GgufValueType::kBool: {
        uint8_t value = 0;
        if (!Take(value)) return EndsIn(key);
        if (value > 1) return NoBool(key, value);
        return GgufValue(value == 1);
      }
      case GgufValueType::kString: {
        std::string_view text;
        if (!TakeText(text)) return EndsIn(key);
        return GgufValue(text);
      }
      case GgufValueType::kArray:
        return ReadList(key);
    }
    return UnknownType(key, type);
  }

  absl::StatusOr<GgufValue> ReadList(std::string_view key) {
    uint32_t type = 0;
    uint64_t count = 0;
    if (!Take(type) || !Take(count)) return EndsIn(key);
    const GgufList list = {
        .type = static_cast<GgufValueType>(type), .size = count, .data = file_.data() + position_};
    switch (list.type) {
      case GgufValueType::kUint8:
      case GgufValueType::kInt8:
        return SkipNumbers(key, list, 1);
      case GgufValueType::kUint16:
      case GgufValueType::kInt16:
        return SkipNumbers(key, list, 2);
      case GgufValueType::kUint32:
      case GgufValueType::kInt32:
      case GgufValueType::kFloat32:
        return SkipNumbers(key, list, 4);
      case GgufValueType::kUint64:
      case GgufValueType::kInt64:
      case GgufValueType::kFloat64:
        return SkipNumbers(key, list, 8);
      case GgufValueType::kBool:
        return SkipBools(key, list);
      case GgufValueType::kString:
        return SkipTexts(key, list);
      case GgufValueType::kArray:
        return absl::UnimplementedError(
            absl::StrCat(origin_, ": unsupported: ", Quoted(key),
                         " is a list of lists; no known model has one"));
    }
    return UnknownType(key, list.type);
  }

  template <typename T>
  absl::StatusOr<GgufValue> ReadNumber(std::string_view key) {
    T value = 0;
    if (!Take(value)) return EndsIn(key);
    if constexpr (std::is_floating_point_v<T>) {
      return GgufValue(static_cast<double>(value));
    } else {
      if (TooLarge(value)) return NoInt64(key);
      return GgufValue(static_cast<int64_t>(value));
    }
  }

  absl::StatusOr<GgufValue> SkipNumbers(std::string_view key, const GgufList& list,
                                        uint64_t bytes) {
    if (list.size > remaining() / bytes) return TooMany(key, list.size);
    if (list.type == GgufValueType::kUint64) {
      for (uint64_t i = 0; i < list.size; ++i) {
        uint64_t value = 0;
        Take(value);
        if (TooLarge(value)) return NoInt64(key);
      }
    } else {
      position_ += list.size * bytes;
    }
    return GgufValue(list);
  }

  absl::StatusOr<GgufValue> SkipBools(std::string_view key, const GgufList& list) {
    if (list.size > remaining()) return TooMany(key, list.size);
    for (uint64_t i = 0; i < list.size; ++i) {
      uint8_t value = 0;
      Take(value);
      if (value > 1) return NoBool(key, value);
    }
    return GgufValue(list);
  }

  absl::StatusOr<GgufValue> SkipTexts(std::string_view key, const GgufList& list) {
    if (list.size > remaining() / sizeof(uint64_t)) return TooMany(key, list.size);
    for (uint64_t i = 0; i < list.size; ++i) {
      std::string_view value;
      if (!TakeText(value)) return EndsIn(key);
    }
    return GgufValue(list);
  }

  template <typename T>
  static bool TooLarge(T value) {
    if constexpr (std::is_same_v<T, uint64_t>) {
      return value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    }
    return false;
  }

  absl::Status EndsIn(std::string_view key) const {
    return Broken(absl::StrCat("it ends inside the value of ", Quoted(key)));
  }
  absl::Status TooMany(std::string_view key, uint64_t count) const {
    return Broken(absl::StrCat(Quoted(key), " claims ", count, " values, but only ", remaining(),
                               " bytes follow"));
  }
  absl::Status NoBool(std::string_view key, uint8_t value) const {
    return Broken(
        absl::StrCat(Quoted(key), " has ", int{value}, " where true is 1 and false is 0"));
  }
  absl::Status NoInt64(std::string_view key) const {
    return absl::UnimplementedError(absl::StrCat(origin_, ": unsupported: ", Quoted(key),
                                                 " has a whole number above 2^63 - 1"));
  }
  absl::Status UnknownType(std::string_view key, GgufValueType type) const {
    return Broken(
        absl::StrCat(Quoted(key), " has values of unknown type ", static_cast<uint32_t>(type)));
  }

  absl::StatusOr<uint64_t> Alignment(const GgufHeader& header) const {
    for (const auto& [key, value] : header.metadata) {
      if (key != kAlignmentKey) continue;
      const int64_t* alignment = std::get_if<int64_t>(&value);
      if (alignment == nullptr || *alignment < 1 || *alignment > kAlignmentMax ||
          !std::has_single_bit(static_cast<uint64_t>(*alignment))) {
        return Broken(absl::StrCat(std::string(kAlignmentKey), " must be a power of two from 1 to ",
                                   kAlignmentMax));
      }
      return static_cast<uint64_t>(*alignment);
    }
    return kAlignmentDefault;
  }

  // Everything of the table but `data`.
  absl::Status ReadTensors(uint64_t count, uint64_t alignment, std::vector<GgufTensor>& tensors,
                           std::vector<uint64_t>& offsets) {
    // Metadata has been read since the count was judged.
    if (count > remaining() / kTensorBytesMin) {
      return Broken(absl::StrCat("it ends inside its table of ", count, " tensors"));
    }
    tensors.reserve(count);
    offsets.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      GgufTensor tensor;
      uint64_t offset = 0;
      if (!TakeText(tensor.name)) {
        return Broken(absl::StrCat("it ends inside tensor ", i + 1, " of ", count));
      }
      if (tensor.name.empty()) return Broken(absl::StrCat("tensor ", i + 1, " has no name"));
      RETURN_IF_ERROR(ReadShape(tensor));
      if (!Take(tensor.type) || !Take(offset)) {
        return Broken(absl::StrCat("it ends inside the entry of tensor ", Quoted(tensor.name)));
      }
      if (offset % alignment != 0) {
        return Broken(absl::StrCat("tensor ", Quoted(tensor.name), " begins at byte ", offset,
                                   " of the data, which is no multiple of the alignment ",
                                   alignment));
      }
      tensors.push_back(std::move(tensor));
      offsets.push_back(offset);
    }
    return absl::OkStatus();
  }

  absl::Status ReadShape(GgufTensor& tensor) {
    uint32_t dimensions = 0;
    if (!Take(dimensions)) {
      return Broken(absl::StrCat("it ends inside the entry of tensor ", Quoted(tensor.name)));
    }
    if (dimensions < 1 || dimensions > kDimensionsMax) {
      return Broken(absl::StrCat("tensor ", Quoted(tensor.name), " has ", dimensions,
                                 " dimensions, expected 1 to ", kDimensionsMax));
    }
    tensor.shape.resize(dimensions);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {
      uint64_t size = 0;
      if (!Take(size)) {
        return Broken(absl::StrCat("it ends inside the entry of tensor ", Quoted(tensor.name)));
      }
      // Refuses negative numbers too, and keeps every product far below 2^63.
      if (size < 1 || size > kElementsMax || elements > kElementsMax / size) {
        return Broken(absl::StrCat("tensor ", Quoted(tensor.name), " has an impossible shape"));
      }
      elements *= size;
      tensor.shape[dimensions - 1 - i] = static_cast<int64_t>(size);
    }
    return absl::OkStatus();
  }

  absl::Status CheckNamesDiffer(const std::vector<GgufTensor>& tensors) const {
    std::vector<std::string_view> names;
    names.reserve(tensors.size());
    for (const GgufTensor& tensor : tensors) names.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice == names.end()) return absl::OkStatus();
    return Broken(absl::StrCat("it has the tensor ", Quoted(*twice), " twice"));
  }

  // Fills in every tensor's data, which begins where the table ends, rounded up to the alignment.
  absl::Status Place(uint64_t alignment, const std::vector<uint64_t>& offsets,
                     std::vector<GgufTensor>& tensors) const {
    if (tensors.empty()) return absl::OkStatus();
    const uint64_t start = (position_ + alignment - 1) / alignment * alignment;
    const std::span<const std::byte> data = file_.subspan(std::min<uint64_t>(start, file_.size()));
    for (size_t i = 0; i < tensors.size(); ++i) {
      ASSIGN_OR_RETURN(const uint64_t bytes, SizeOf(tensors[i]));
      if (offsets[i] > data.size() || bytes > data.size() - offsets[i]) {
        return Broken(absl::StrCat("tensor ", Quoted(tensors[i].name), " has ", bytes,
                                   " bytes at byte ", offsets[i], " of ", data.size(),
                                   " bytes of data"));
      }
      tensors[i].data = data.subspan(offsets[i], bytes);
    }
    return CheckNoOverlap(tensors);
  }

  // 0 for a type that we do not know.
  absl::StatusOr<uint64_t> SizeOf(const GgufTensor& tensor) const {
    const GgufType* type = FindGgufType(tensor.type);
    if (type == nullptr) return 0;
    if (tensor.shape.back() % type->block_elements != 0) {
      return Broken(absl::StrCat("tensor ", Quoted(tensor.name), " has rows of ",
                                 tensor.shape.back(), " elements, which is no multiple of ",
                                 std::string(type->name), "'s block of ", type->block_elements));
    }
    int64_t blocks = tensor.shape.back() / type->block_elements;
    for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) blocks *= tensor.shape[i];
    return static_cast<uint64_t>(blocks * type->block_bytes);
  }

  absl::Status CheckNoOverlap(const std::vector<GgufTensor>& tensors) const {
    std::vector<const GgufTensor*> by_place;
    by_place.reserve(tensors.size());
    for (const GgufTensor& tensor : tensors) by_place.push_back(&tensor);
    std::sort(by_place.begin(), by_place.end(), [](const GgufTensor* a, const GgufTensor* b) {
      return a->data.data() != b->data.data() ? a->data.data() < b->data.data()
                                              : a->data.size() < b->data.size();
    });
    for (size_t i = 1; i < by_place.size(); ++i) {
      const GgufTensor& before = *by_place[i - 1];
      if (before.data.data() + before.data.size() > by_place[i]->data.data()) {
        return Broken(absl::StrCat("the tensors ", Quoted(before.name), " and ",
                                   Quoted(by_place[i]->name), " overlap"));
      }
    }
    return absl::OkStatus();
  }

  const std::span<const std::byte> file_;
  const std::string& origin_;
  uint64_t position_ = 0;
};

}  // namespace

absl::StatusOr<GgufHeader> ParseGgufHeader(std::span<const std::byte> file,
                                           const std::string& origin) {
  return HeaderReader(file, origin).Read();
}

}  // namespace trireme
