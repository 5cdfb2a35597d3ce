#include "worker/checkpoint/int4_tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "kernels/bfloat16.h"
#include "worker/checkpoint/slice.h"

namespace trireme {
namespace {

constexpr DTypeInfo kBlock = DTypeBlock(DType::kInt4Zero);
constexpr int64_t kPerWord = 8;
constexpr int kBits = 4;
constexpr const char* kGroups = "g_idx";
constexpr int kHalfBlock = 16;
constexpr int kWordsOfBlock = 32 / kPerWord;  // of a row, where words are along columns
// Where AWQ has each of the eight rows of a word, in bits.
constexpr int kAwqShifts[kPerWord] = {0, 16, 4, 20, 8, 24, 12, 28};

// Of an array of 32-bit words at any address.
uint32_t Word(std::span<const std::byte> words, int64_t index) {
  uint32_t word;
  std::memcpy(&word, words.data() + index * 4, sizeof(word));
  return word;
}

std::byte Nibbles(uint32_t low, uint32_t high) {
  return static_cast<std::byte>((low & 15) | ((high & 15) << kBits));
}

// Nearest, ties to even; nullopt if it is too large or not a number.
std::optional<uint16_t> Bf16ToF16(uint16_t bf16) {
  const float value = std::bit_cast<float>(uint32_t{bf16} << 16);
  const float size = std::fabs(value);
  const auto sign = static_cast<uint16_t>(bf16 & 0x8000);
  if (!(size < 0x1p16f)) return std::nullopt;
  if (size < 0x1p-14f) {  // subnormal, or the least normal one: its bits follow
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(size * 0x1p24f)));
  }
  const int exponent = ((bf16 >> 7) & 255) - 112;
  return static_cast<uint16_t>(sign | (exponent << 10) | ((bf16 & 127) << 3));
}

// The parts of a matrix, checked against each other.
struct Parts {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;
  std::span<const std::byte> quants;
  std::span<const std::byte> zeros;
  std::span<const std::byte> scales;
  bool bf16_scales = false;
  uint32_t zero_offset = 0;           // added to what is stored
  std::span<const std::byte> groups;  // of each column; empty if they are in order
};

std::vector<std::span<const std::byte>> GptqStretches(const Parts& parts, const IndexRange& rows,
                                                      const IndexRange& cols) {
  return RowStretches(parts.quants, parts.rows * 4,
                      {.begin = cols.begin / kPerWord, .end = (cols.end + kPerWord - 1) / kPerWord},
                      {.begin = rows.begin * 4, .end = rows.end * 4});
}

class Int4Tensor : public QuantizedTensor {
 public:
  absl::Status Read(int64_t first_row, int64_t rows, const IndexRange& cols,
                    std::byte* to) const override {
    const int64_t row_bytes = DTypeRowBytes(DType::kInt4Zero, cols.size());
    for (int64_t col = cols.begin; col < cols.end; col += kBlock.block_elements) {
      RETURN_IF_ERROR(ReadGroup(first_row, rows, col / parts_.group_size, to, row_bytes));
      ReadQuants(first_row, rows, col, to + 3, row_bytes);
      to += kBlock.block_bytes;
    }
    return absl::OkStatus();
  }

 protected:
  explicit Int4Tensor(Parts parts, std::string_view type)
      : QuantizedTensor({.dtype = DType::kInt4Zero,
                         .stored_type = std::string(type),
                         .shape = {parts.rows, parts.cols}}),
        parts_(parts) {}

  // The 16 bytes of the block at a column, for rows whose places are `row_bytes` apart.
  virtual void ReadQuants(int64_t first_row, int64_t rows, int64_t col, std::byte* to,
                          int64_t row_bytes) const = 0;
  // Where the zero of a row is in its word.
  virtual int ZeroShift(int64_t row_of_word) const = 0;

  const Parts parts_;

 private:
  // Scale and zero, in front of the quants.
  absl::Status ReadGroup(int64_t first_row, int64_t rows, int64_t group, std::byte* to,
                         int64_t row_bytes) const {
    for (int64_t row = first_row; row < first_row + rows; ++row, to += row_bytes) {
      const int64_t element = group * parts_.rows + row;
      uint16_t scale;
      std::memcpy(&scale, parts_.scales.data() + element * 2, sizeof(scale));
      if (parts_.bf16_scales) {
        const std::optional<uint16_t> half = Bf16ToF16(scale);
        if (!half) {
          return absl::InvalidArgumentError(absl::StrCat("its scale of group ", group, " and row ",
                                                         row, " does not fit into float16"));
        }
        scale = *half;
      }
      std::memcpy(to, &scale, sizeof(scale));
      const uint32_t zeros = Word(parts_.zeros, element / kPerWord);
      to[2] =
          static_cast<std::byte>(((zeros >> ZeroShift(row % kPerWord)) & 15) + parts_.zero_offset);
    }
    return absl::OkStatus();
  }
};

class AwqTensor final : public Int4Tensor {
 public:
  explicit AwqTensor(const Parts& parts) : Int4Tensor(parts, "AWQ") {}

  std::vector<std::span<const std::byte>> Stretches(const IndexRange& rows,
                                                    const IndexRange& cols) const override {
    return RowStretches(
        parts_.quants, words_of_col() * 4, cols,
        {.begin = rows.begin / kPerWord * 4, .end = (rows.end + kPerWord - 1) / kPerWord * 4});
  }

 protected:
  void ReadQuants(int64_t first_row, int64_t rows, int64_t col, std::byte* to,
                  int64_t row_bytes) const override {
    for (int64_t row = first_row; row < first_row + rows;) {
      uint32_t words[2 * kHalfBlock];
      for (int i = 0; i < 2 * kHalfBlock; ++i) {
        words[i] = Word(parts_.quants, (col + i) * words_of_col() + row / kPerWord);
      }
      const int64_t end = std::min(first_row + rows, (row / kPerWord + 1) * kPerWord);
      for (; row < end; ++row, to += row_bytes) {
        const int shift = kAwqShifts[row % kPerWord];
        for (int i = 0; i < kHalfBlock; ++i) {
          to[i] = Nibbles(words[i] >> shift, words[i + kHalfBlock] >> shift);
        }
      }
    }
  }
  int ZeroShift(int64_t row_of_word) const override { return kAwqShifts[row_of_word]; }

 private:
  int64_t words_of_col() const { return parts_.rows / kPerWord; }
};

class GptqTensor final : public Int4Tensor {
 public:
  explicit GptqTensor(const Parts& parts) : Int4Tensor(parts, "GPTQ") {}

  std::vector<std::span<const std::byte>> Stretches(const IndexRange& rows,
                                                    const IndexRange& cols) const override {
    return GptqStretches(parts_, rows, cols);
  }

 protected:
  void ReadQuants(int64_t first_row, int64_t rows, int64_t col, std::byte* to,
                  int64_t row_bytes) const override {
    for (int64_t row = first_row; row < first_row + rows; ++row, to += row_bytes) {
      uint32_t words[kWordsOfBlock];
      for (int i = 0; i < kWordsOfBlock; ++i) {
        words[i] = Word(parts_.quants, (col / kPerWord + i) * parts_.rows + row);
      }
      for (int i = 0; i < kHalfBlock; ++i) {
        const int word = i / static_cast<int>(kPerWord);
        const int shift = i % static_cast<int>(kPerWord) * kBits;
        to[i] = Nibbles(words[word] >> shift, words[word + 2] >> shift);
      }
    }
  }
  int ZeroShift(int64_t row_of_word) const override {
    return static_cast<int>(row_of_word) * kBits;
  }
};

// GPTQ with the columns of a group anywhere in the matrix, where a kernel's block of neighbours has
// no one scale: widened.
class ActOrderTensor final : public QuantizedTensor {
 public:
  explicit ActOrderTensor(const Parts& parts)
      : QuantizedTensor(
            {.dtype = DType::kBF16, .stored_type = "GPTQ", .shape = {parts.rows, parts.cols}}),
        parts_(parts),
        group_count_(parts.cols / parts.group_size) {}

  std::vector<std::span<const std::byte>> Stretches(const IndexRange& rows,
                                                    const IndexRange& cols) const override {
    return GptqStretches(parts_, rows, cols);
  }

  absl::Status Read(int64_t first_row, int64_t rows, const IndexRange& cols,
                    std::byte* to) const override {
    // Rows inside, as they are neighbours in the file.
    const std::vector<float> scales = Scales(first_row, rows);
    const std::vector<int> zeros = Zeros(first_row, rows);
    for (int64_t begin = cols.begin; begin < cols.end;) {
      const int64_t end = std::min(cols.end, (begin / kPerWord + 1) * kPerWord);
      for (int64_t row = 0; row < rows; ++row) {
        const uint32_t word = Word(parts_.quants, begin / kPerWord * parts_.rows + first_row + row);
        std::byte* out = to + (row * cols.size() + begin - cols.begin) * 2;
        for (int64_t col = begin; col < end; ++col, out += 2) {
          const auto of = static_cast<size_t>(Word(parts_.groups, col) * rows + row);
          const int quant = static_cast<int>((word >> (col % kPerWord * kBits)) & 15);
          const uint16_t value = RoundToBf16(static_cast<float>(quant - zeros[of]) * scales[of]);
          std::memcpy(out, &value, sizeof(value));
        }
      }
      begin = end;
    }
    return absl::OkStatus();
  }

 private:
  // [group, row], as in the file.
  std::vector<float> Scales(int64_t first_row, int64_t rows) const {
    std::vector<uint16_t> halves(static_cast<size_t>(group_count_ * rows));
    for (int64_t group = 0; group < group_count_; ++group) {
      std::memcpy(halves.data() + group * rows,
                  parts_.scales.data() + (group * parts_.rows + first_row) * 2,
                  static_cast<size_t>(rows) * sizeof(uint16_t));
    }
    return ToFloats({.data = halves.data(),
                     .dtype = parts_.bf16_scales ? DType::kBF16 : DType::kF16,
                     .rows = group_count_,
                     .cols = rows,
                     .row_stride = rows});
  }
  std::vector<int> Zeros(int64_t first_row, int64_t rows) const {
    std::vector<int> zeros;
    for (int64_t group = 0; group < group_count_; ++group) {
      for (int64_t row = first_row; row < first_row + rows; ++row) {
        const uint32_t word = Word(parts_.zeros, (group * parts_.rows + row) / kPerWord);
        zeros.push_back(
            static_cast<int>(((word >> (row % kPerWord * kBits)) & 15) + parts_.zero_offset));
      }
    }
    return zeros;
  }

  const Parts parts_;
  const int64_t group_count_;
};

// Finds the parts of a matrix and checks them; every error names file and tensor.
class PartsReader {
 public:
  PartsReader(const SafetensorsFiles& files, const std::string& prefix,
              const QuantizationConfig& config)
      : files_(files), prefix_(prefix), config_(config) {}

  absl::StatusOr<Parts> Read() const {
    const bool awq = config_.method == QuantizationMethod::kAwq;
    ASSIGN_OR_RETURN(const SafetensorsTensor* quants, Part("qweight"));
    const std::vector<int64_t>& shape = quants->info.shape;
    if (quants->info.stored_type != "I32" || shape.size() != 2 || shape[0] == 0 || shape[1] == 0) {
      return Wrong(*quants, "qweight", "it must be a matrix of I32");
    }
    Parts parts;
    parts.rows = awq ? shape[1] * kPerWord : shape[1];
    parts.cols = awq ? shape[0] : shape[0] * kPerWord;
    parts.group_size = config_.group_size == 0 ? parts.cols : config_.group_size;
    if (parts.cols % parts.group_size != 0 || parts.cols % kBlock.block_elements != 0) {
      return Wrong(*quants, "qweight",
                   absl::StrCat("unsupported: its ", parts.cols,
                                " columns must be a multiple of group_size ", parts.group_size,
                                " and of ", kBlock.block_elements));
    }
    if (parts.rows % kPerWord != 0) {
      return Wrong(*quants, "qweight", "its rows must be a multiple of 8");
    }
    parts.quants = quants->data;
    const int64_t groups = parts.cols / parts.group_size;
    ASSIGN_OR_RETURN(parts.zeros, Zeros({groups, parts.rows / kPerWord}));
    ASSIGN_OR_RETURN(const SafetensorsTensor* scales, Scales({groups, parts.rows}));
    parts.scales = scales->data;
    parts.bf16_scales = scales->info.dtype == DType::kBF16;
    parts.zero_offset = config_.zeros_minus_one ? 1 : 0;
    ASSIGN_OR_RETURN(parts.groups, Groups(parts));
    return parts;
  }

 private:
  absl::StatusOr<const SafetensorsTensor*> Part(const char* part) const {
    const SafetensorsTensor* found = files_.Find(prefix_ + part);
    if (found != nullptr) return found;
    return absl::InvalidArgumentError(absl::StrCat(files_.origin(), ": tensor ",
                                                   Quoted(prefix_ + part), " is missing beside ",
                                                   prefix_, "qweight"));
  }

  absl::Status Wrong(const SafetensorsTensor& tensor, const char* part,
                     const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(
        tensor.file, ": tensor ", Quoted(prefix_ + part), " is ", tensor.info.stored_type,
        " of shape [", absl::StrJoin(tensor.info.shape, ", "), "]; ", what));
  }

  absl::StatusOr<std::span<const std::byte>> Zeros(const std::vector<int64_t>& shape) const {
    ASSIGN_OR_RETURN(const SafetensorsTensor* zeros, Part("qzeros"));
    if (zeros->info.stored_type == "I32" && zeros->info.shape == shape) return zeros->data;
    return Wrong(*zeros, "qzeros",
                 absl::StrCat("it must be I32 of shape [", absl::StrJoin(shape, ", "), "]"));
  }

  absl::StatusOr<const SafetensorsTensor*> Scales(const std::vector<int64_t>& shape) const {
    ASSIGN_OR_RETURN(const SafetensorsTensor* scales, Part("scales"));
    const std::string& type = scales->info.stored_type;
    if ((type == "F16" || type == "BF16") && scales->info.shape == shape) return scales;
    return Wrong(
        *scales, "scales",
        absl::StrCat("it must be F16 or BF16 of shape [", absl::StrJoin(shape, ", "), "]"));
  }

  // The group of each column; empty if they are in order.
  absl::StatusOr<std::span<const std::byte>> Groups(const Parts& parts) const {
    constexpr std::span<const std::byte> kInOrder;
    if (config_.method == QuantizationMethod::kAwq) return kInOrder;
    if (!config_.act_order && files_.Find(prefix_ + kGroups) == nullptr) return kInOrder;
    ASSIGN_OR_RETURN(const SafetensorsTensor* groups, Part(kGroups));
    if (groups->info.stored_type != "I32" ||
        groups->info.shape != std::vector<int64_t>{parts.cols}) {
      return Wrong(*groups, kGroups, absl::StrCat("it must be I32 of shape [", parts.cols, "]"));
    }
    const int64_t count = parts.cols / parts.group_size;
    bool in_order = true;
    for (int64_t col = 0; col < parts.cols; ++col) {
      const uint32_t group = Word(groups->data, col);
      if (group >= count) {
        return Wrong(*groups, kGroups,
                     absl::StrCat("its column ", col, " is in group ", static_cast<int32_t>(group),
                                  "; there are ", count));
      }
      in_order = in_order && group == col / parts.group_size;
    }
    if (in_order) return kInOrder;
    if (config_.act_order) return groups->data;
    return Wrong(*groups, kGroups,
                 "its columns are not in the order of their groups, though config.json has no "
                 "desc_act");
  }

  const SafetensorsFiles& files_;
  const std::string& prefix_;
  const QuantizationConfig& config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<QuantizedTensor>> OpenInt4Tensor(const SafetensorsFiles& files,
                                                                const std::string& prefix,
                                                                const QuantizationConfig& config) {
  ASSIGN_OR_RETURN(const Parts parts, PartsReader(files, prefix, config).Read());
  if (config.method == QuantizationMethod::kAwq) return std::make_unique<AwqTensor>(parts);
  if (!parts.groups.empty()) return std::make_unique<ActOrderTensor>(parts);
  return std::make_unique<GptqTensor>(parts);
}

}  // namespace trireme
