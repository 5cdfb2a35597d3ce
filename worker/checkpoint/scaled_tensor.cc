#include "worker/checkpoint/scaled_tensor.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "kernels/bfloat16.h"
#include "kernels/quant/fp8.h"
#include "worker/checkpoint/slice.h"

namespace trireme {
namespace {

constexpr int64_t kBlock = DTypeBlock(DType::kInt8).block_elements;

absl::Status Wrong(const SafetensorsTensor& tensor, const std::string& name,
                   const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(tensor.file, ": tensor ", Quoted(name), " is ", tensor.info.stored_type,
                   " of shape [", absl::StrJoin(tensor.info.shape, ", "), "]; ", what));
}

// The scales as floats, and how many rows and columns share one.
struct Scales {
  std::vector<float> values;
  int64_t block_rows = 1;
  int64_t block_cols = 1;
  int64_t per_block_row = 1;  // scales

  const float* Row(int64_t row) const { return values.data() + row / block_rows * per_block_row; }
};

int64_t BlocksOf(int64_t size, int64_t block) { return (size + block - 1) / block; }

absl::StatusOr<Scales> ReadScales(const SafetensorsTensor& tensor, const std::string& name,
                                  int64_t rows, int64_t cols, const QuantizationConfig& config) {
  const std::vector<int64_t>& shape = tensor.info.shape;
  Scales scales{.values = {}, .block_rows = 1, .block_cols = cols, .per_block_row = 1};
  if (config.block_rows > 0) {
    const int64_t per_row = BlocksOf(cols, config.block_cols);
    if (shape != std::vector<int64_t>{BlocksOf(rows, config.block_rows), per_row}) {
      return Wrong(tensor, name,
                   absl::StrCat("there must be a scale for each ", config.block_rows, " x ",
                                config.block_cols, " of [", rows, ", ", cols, "]"));
    }
    scales.block_rows = config.block_rows;
    scales.block_cols = config.block_cols;
    scales.per_block_row = per_row;
  } else if (shape.empty() || shape == std::vector<int64_t>{1} ||
             shape == std::vector<int64_t>{1, 1}) {
    scales.block_rows = rows;
  } else if (shape != std::vector<int64_t>{rows, 1} && shape != std::vector<int64_t>{rows}) {
    return Wrong(tensor, name,
                 absl::StrCat("there must be a scale for each of ", rows, " rows, or one for all"));
  }
  const std::string& type = tensor.info.stored_type;
  if (type != "F32" && type != "F16" && type != "BF16") {
    return Wrong(tensor, name, "scales must be F32, F16 or BF16");
  }
  const std::vector<std::byte> aligned(tensor.data.begin(), tensor.data.end());
  const int64_t count =
      static_cast<int64_t>(aligned.size()) / DTypeBlock(tensor.info.dtype).block_bytes;
  scales.values = ToFloats({.data = aligned.data(),
                            .dtype = tensor.info.dtype,
                            .rows = 1,
                            .cols = count,
                            .row_stride = count});
  return scales;
}

// What both types share: quants a byte each, row by row.
class ByteTensor : public QuantizedTensor {
 public:
  std::vector<std::span<const std::byte>> Stretches(const IndexRange& rows,
                                                    const IndexRange& cols) const override {
    return RowStretches(data_, stride(), rows, cols);
  }

 protected:
  ByteTensor(TensorInfo info, std::span<const std::byte> data, Scales scales)
      : QuantizedTensor(std::move(info)), scales_(std::move(scales)), data_(data) {}

  // The quants of a row from column `col` on.
  const std::byte* Quants(int64_t row, int64_t col) const {
    return data_.data() + row * stride() + col;
  }

  const Scales scales_;

 private:
  int64_t stride() const { return info().shape[1]; }

  const std::span<const std::byte> data_;
};

// A row's scale in each of its blocks.
class BlockTensor final : public ByteTensor {
 public:
  BlockTensor(TensorInfo info, std::span<const std::byte> data, Scales scales)
      : ByteTensor(std::move(info), data, std::move(scales)) {}

  absl::Status Read(int64_t first_row, int64_t rows, const IndexRange& cols,
                    std::byte* to) const override {
    const DTypeInfo block = DTypeBlock(info().dtype);
    for (int64_t row = first_row; row < first_row + rows; ++row) {
      const float* scale = scales_.Row(row);
      for (int64_t col = cols.begin; col < cols.end; col += block.block_elements) {
        std::memcpy(to, scale, sizeof(*scale));
        std::memcpy(to + sizeof(*scale), Quants(row, col),
                    static_cast<size_t>(block.block_elements));
        to += block.block_bytes;
      }
    }
    return absl::OkStatus();
  }
};

// Widened.
class Fp8Tensor final : public ByteTensor {
 public:
  Fp8Tensor(TensorInfo info, std::span<const std::byte> data, Scales scales)
      : ByteTensor(std::move(info), data, std::move(scales)) {}

  absl::Status Read(int64_t first_row, int64_t rows, const IndexRange& cols,
                    std::byte* to) const override {
    for (int64_t row = first_row; row < first_row + rows; ++row) {
      const float* scales = scales_.Row(row);
      const std::byte* quants = Quants(row, 0);
      for (int64_t begin = cols.begin; begin < cols.end;) {
        const int64_t block = begin / scales_.block_cols;
        const int64_t end = std::min(cols.end, (block + 1) * scales_.block_cols);
        for (int64_t col = begin; col < end; ++col, to += 2) {
          const uint16_t value =
              RoundToBf16(quant::FromE4m3(static_cast<uint8_t>(quants[col])) * scales[block]);
          std::memcpy(to, &value, sizeof(value));
        }
        begin = end;
      }
    }
    return absl::OkStatus();
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<QuantizedTensor>> OpenScaledTensor(
    const SafetensorsFiles& files, const std::string& weight, const QuantizationConfig& config) {
  const bool int8 = config.method == QuantizationMethod::kInt8;
  const SafetensorsTensor* quants = files.Find(weight);
  const std::string_view type = int8 ? "I8" : "F8_E4M3";
  if (quants == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(files.origin(), ": tensor ", Quoted(weight),
                                                   " is missing, but its scales are there"));
  }
  if (quants->info.stored_type != type || quants->info.shape.size() != 2) {
    return Wrong(*quants, weight,
                 absl::StrCat("config.json makes it a matrix of ", std::string(type)));
  }
  const int64_t rows = quants->info.shape[0];
  const int64_t cols = quants->info.shape[1];
  if (rows == 0 || cols == 0 || (int8 && cols % kBlock != 0)) {
    return Wrong(*quants, weight,
                 absl::StrCat("unsupported: its columns must be a multiple of ", kBlock));
  }
  std::string scale_name = weight + "_scale";
  if (files.Find(scale_name) == nullptr && !int8) scale_name = weight + "_scale_inv";
  const SafetensorsTensor* scale = files.Find(scale_name);
  if (scale == nullptr) {
    return Wrong(*quants, weight,
                 absl::StrCat("its scales, ", Quoted(weight + "_scale"),
                              ", are missing from the checkpoint"));
  }
  const std::string zero_name = weight + "_zero_point";
  if (const SafetensorsTensor* zeros = files.Find(zero_name);
      zeros != nullptr && std::any_of(zeros->data.begin(), zeros->data.end(),
                                      [](std::byte b) { return b != std::byte{0}; })) {
    return Wrong(*zeros, zero_name, "unsupported: weights must be symmetric");
  }
  ASSIGN_OR_RETURN(Scales scales, ReadScales(*scale, scale_name, rows, cols, config));
  TensorInfo info = quants->info;
  const bool by_rows = config.block_rows == 0 && config.fp8_activations &&
                       cols % DTypeBlock(DType::kFp8).block_elements == 0 &&
                       weight.find("embed_tokens") == std::string::npos;
  info.dtype = int8 ? DType::kInt8 : by_rows ? DType::kFp8 : DType::kBF16;
  if (int8 || by_rows) {
    return std::make_unique<BlockTensor>(std::move(info), quants->data, std::move(scales));
  }
  return std::make_unique<Fp8Tensor>(std::move(info), quants->data, std::move(scales));
}

}  // namespace trireme
