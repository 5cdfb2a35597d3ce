#include "worker/placed_slice.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/bfloat16.h"
#include "kernels/quant/fp8.h"
#include "parallel/weight_types.h"
#include "worker/checkpoint/slice.h"

namespace trireme {

int64_t PlacedSlice::stored_row_bytes() const {
  return DTypeRowBytes(stored, BlockColumns(*slice, stored).size());
}

int64_t PlacedSlice::row_bytes() const {
  const int64_t cols = slice->cols.size();
  return dtype == DType::kFp8 ? cols : cols * DTypeBlock(dtype).block_bytes;
}

int64_t PlacedSlice::bytes() const {
  return bytes_before(slice->rows.size()) + static_cast<int64_t>(scales.size() * sizeof(float));
}

int64_t PlacedSlice::bytes_before(int64_t row) const {
  if (!layout) return row_bytes() * row;
  return (row + quant::kPanelRows - 1) / quant::kPanelRows * layout->panel_bytes;
}

absl::StatusOr<PlacedSlice> Place(const Checkpoint& checkpoint, const TensorSlice& slice,
                                  const Ops& ops, bool float32) {
  const TensorInfo* info = checkpoint.Find(slice.name);
  if (info == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(checkpoint.origin(), ": tensor \"", slice.name,
                     "\" is missing; does the configuration belong to this checkpoint?"));
  }
  PlacedSlice placed{.slice = &slice,
                     .stored = info->dtype,
                     .dtype = info->dtype,
                     .layout = {},
                     .data = nullptr,
                     .scales = {},
                     .stretches = checkpoint.Stretches(slice)};
  if (info->dtype == DType::kFp8) {
    const bool keeps = !float32 && ops.MultipliesFp8() && FitsFp8Products(slice);
    placed.dtype = keeps ? DType::kFp8 : DType::kBF16;
    if (placed.dtype == DType::kFp8) placed.scales.resize(static_cast<size_t>(slice.rows.size()));
  }
  if (float32 && !IsQuantized(info->dtype)) placed.dtype = DType::kF32;
  if (slice.is_vector || !ops.Packs(placed.dtype)) return placed;
  if (!IsQuantized(info->dtype)) {
    placed.layout.emplace(placed.dtype, slice.rows.size(), slice.cols.size(), 0);
    return placed;
  }
  if (slice.cols.begin % quant::kBlockColumns != 0 || slice.cols.end % quant::kBlockColumns != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("unsupported: tensor parallelism would cut tensor \"", slice.name, "\" of ",
                     checkpoint.origin(), ", of type ", std::string(DTypeName(info->dtype)),
                     " and with ", slice.full_cols, " columns, inside a block of ",
                     quant::kBlockColumns, "; use a smaller --tp"));
  }
  const int64_t before = slice.cols.begin % DTypeBlock(info->dtype).block_elements;
  placed.layout.emplace(info->dtype, slice.rows.size(), slice.cols.size(),
                        before / quant::kBlockColumns);
  return placed;
}

namespace {

// Rows of kFp8, in blocks from the first that has columns of the slice, as bfloat16.
std::vector<std::byte> WidenFp8(const TensorSlice& slice, std::span<const std::byte> stored,
                                int64_t rows) {
  const int64_t blocks = BlockColumns(slice, DType::kFp8).size() / quant::kFp8BlockColumns;
  const int64_t before = slice.cols.begin % quant::kFp8BlockColumns;
  const int64_t cols = slice.cols.size();
  std::vector<std::byte> quants(static_cast<size_t>(blocks * quant::kFp8BlockColumns));
  std::vector<std::byte> halves(static_cast<size_t>(rows * cols) * sizeof(uint16_t));
  std::byte* to = halves.data();
  for (int64_t row = 0; row < rows; ++row) {
    const std::byte* from = stored.data() + row * blocks * quant::kFp8BlockBytes;
    const float scale = quant::SplitFp8Row(from, blocks, quants.data());
    std::array<uint16_t, 256> values;  // that a row may have
    for (size_t bits = 0; bits < values.size(); ++bits) {
      values[bits] = RoundToBf16(quant::FromE4m3(static_cast<uint8_t>(bits)) * scale);
    }
    for (int64_t col = before; col < before + cols; ++col, to += sizeof(uint16_t)) {
      const auto bits = static_cast<size_t>(quants[static_cast<size_t>(col)]);
      std::memcpy(to, &values[bits], sizeof(uint16_t));
    }
  }
  return halves;
}

}  // namespace

absl::Status ReadRows(const Checkpoint& checkpoint, PlacedSlice& placed, int64_t first,
                      int64_t rows, std::span<std::byte> room, std::byte* to) {
  const bool fp8 = placed.stored == DType::kFp8;
  const int64_t row_bytes = placed.stored_row_bytes();
  if (!fp8 && !placed.layout && placed.stored == placed.dtype) {
    return checkpoint.ReadBlocks(*placed.slice, first, rows,
                                 {to, static_cast<size_t>(rows * row_bytes)});
  }
  for (int64_t row = first; row < first + rows; row += quant::kPanelRows) {
    const int64_t count = std::min<int64_t>(quant::kPanelRows, first + rows - row);
    RETURN_IF_ERROR(checkpoint.ReadBlocks(*placed.slice, row, count,
                                          room.first(static_cast<size_t>(count * row_bytes))));
    std::byte* const own = placed.layout ? nullptr : to + (row - first) * placed.row_bytes();
    if (placed.dtype == DType::kFp8) {
      for (int64_t i = 0; i < count; ++i) {
        placed.scales[static_cast<size_t>(row + i)] = quant::SplitFp8Row(
            room.data() + i * row_bytes, placed.row_bytes() / quant::kFp8BlockColumns,
            own + i * placed.row_bytes());
      }
      continue;
    }
    const std::vector<std::byte> widened =
        fp8 ? WidenFp8(*placed.slice, room, count) : std::vector<std::byte>();
    const std::span<const std::byte> values = fp8 ? std::span<const std::byte>(widened) : room;
    if (!placed.layout && placed.dtype == DType::kBF16) {  // of fp8
      std::memcpy(own, values.data(), static_cast<size_t>(count * placed.row_bytes()));
      continue;
    }
    if (!placed.layout) {
      const Weight halves{.data = values.data(),
                          .dtype = fp8 ? DType::kBF16 : placed.stored,
                          .rows = count,
                          .cols = placed.slice->cols.size(),
                          .row_stride = placed.slice->cols.size()};
      const std::vector<float> floats = ToFloats(halves);
      std::memcpy(own, floats.data(), floats.size() * sizeof(float));
      continue;
    }
    quant::PackPanel(placed.dtype, *placed.layout, row / quant::kPanelRows, values.data(),
                     fp8 ? placed.row_bytes() : row_bytes,
                     to + (row - first) / quant::kPanelRows * placed.layout->panel_bytes);
  }
  return absl::OkStatus();
}

}  // namespace trireme
