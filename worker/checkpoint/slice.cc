#include "worker/checkpoint/slice.h"

#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/quoted.h"

namespace trireme {
namespace {

// A request to a disk or over a network costs about as much as so many bytes more of a larger one.
constexpr int64_t kGapBytes = int64_t{64} << 10;

bool Inside(const IndexRange& range, int64_t size) {
  return range.begin >= 0 && range.begin <= range.end && range.end <= size;
}

std::vector<int64_t> ShapeFor(const TensorSlice& slice) {
  if (slice.is_vector) return {slice.full_cols};
  return {slice.full_rows, slice.full_cols};
}

bool Inside(const TensorSlice& slice) {
  return Inside(slice.rows, slice.full_rows) && Inside(slice.cols, slice.full_cols);
}

// Where an interleaved file has what the slice calls row `row`.
int64_t InterleavedRow(int64_t row, int64_t head_dim) {
  const int64_t in_head = row % head_dim;
  const int64_t half = head_dim / 2;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

}  // namespace

IndexRange BlockColumns(const TensorSlice& slice, DType dtype) {
  const int64_t block = DTypeBlock(dtype).block_elements;
  const int64_t begin = slice.cols.begin / block * block;
  if (slice.cols.size() == 0) return {.begin = begin, .end = begin};
  return {.begin = begin, .end = (slice.cols.end + block - 1) / block * block};
}

bool Fits(const TensorSlice& slice, const TensorInfo& info) {
  return info.shape == ShapeFor(slice) && Inside(slice);
}

std::vector<std::span<const std::byte>> RowStretches(std::span<const std::byte> tensor,
                                                     int64_t row_bytes, const IndexRange& rows,
                                                     const IndexRange& bytes) {
  if (rows.size() <= 0 || bytes.size() <= 0) return {};
  const auto stretch = [&](int64_t begin_row, int64_t end_row) {
    const int64_t begin = begin_row * row_bytes + bytes.begin;
    const int64_t end = (end_row - 1) * row_bytes + bytes.end;
    return tensor.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  };
  if (row_bytes - bytes.size() <= kGapBytes) return {stretch(rows.begin, rows.end)};
  std::vector<std::span<const std::byte>> stretches;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    stretches.push_back(stretch(row, row + 1));
  }
  return stretches;
}

std::vector<std::span<const std::byte>> SliceStretches(const TensorSlice& slice,
                                                       const TensorInfo& info,
                                                       std::span<const std::byte> tensor) {
  if (!Fits(slice, info)) return {};
  const IndexRange cols = BlockColumns(slice, info.dtype);
  return RowStretches(
      tensor, DTypeRowBytes(info.dtype, slice.full_cols), slice.rows,
      {.begin = DTypeRowBytes(info.dtype, cols.begin), .end = DTypeRowBytes(info.dtype, cols.end)});
}

absl::Status CheckSlice(const TensorSlice& slice, const TensorInfo& info, int64_t first_row,
                        int64_t rows, size_t destination_bytes, const std::string& file,
                        std::string_view shaped_by) {
  const std::vector<int64_t> expected = ShapeFor(slice);
  if (info.shape != expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": tensor ", Quoted(slice.name), " has shape [", absl::StrJoin(info.shape, ", "),
        "], but ", std::string(shaped_by), " makes it [", absl::StrJoin(expected, ", "),
        "]; they do not belong together"));
  }
  const bool inside = Inside(slice) && rows >= 0 &&
                      Inside({.begin = first_row, .end = first_row + rows}, slice.rows.size());
  if (!inside ||
      destination_bytes !=
          static_cast<size_t>(rows *
                              DTypeRowBytes(info.dtype, BlockColumns(slice, info.dtype).size()))) {
    return absl::InternalError(
        absl::StrCat("slice of ", Quoted(slice.name), " leaves its tensor or its destination"));
  }
  return absl::OkStatus();
}

void CopyRows(const TensorSlice& slice, const StoredTensor& tensor, int64_t first_row, int64_t rows,
              std::span<std::byte> destination) {
  if (destination.empty()) return;
  const IndexRange cols = BlockColumns(slice, tensor.dtype);
  const size_t row_bytes = static_cast<size_t>(DTypeRowBytes(tensor.dtype, cols.size()));
  const size_t stride = static_cast<size_t>(DTypeRowBytes(tensor.dtype, slice.full_cols));
  const int64_t begin = slice.rows.begin + first_row;
  const std::byte* from = tensor.data.data() + DTypeRowBytes(tensor.dtype, cols.begin);
  const int64_t head_dim = tensor.interleaved_head_dim;
  if (row_bytes == stride && head_dim == 0) {
    std::memcpy(destination.data(), from + static_cast<size_t>(begin) * stride, destination.size());
    return;
  }
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t stored = head_dim == 0 ? begin + row : InterleavedRow(begin + row, head_dim);
    std::memcpy(destination.data() + static_cast<size_t>(row) * row_bytes,
                from + static_cast<size_t>(stored) * stride, row_bytes);
  }
}

}  // namespace trireme
