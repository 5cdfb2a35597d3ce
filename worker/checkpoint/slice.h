#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kernels/tensor.h"
#include "parallel/shard.h"
#include "worker/checkpoint/checkpoint.h"

namespace trireme {

// What every reader does with a slice once it knows where its tensor lies.

// The columns of a slice, widened outward to whole blocks of the data type.
IndexRange BlockColumns(const TensorSlice& slice, DType dtype);

// The slice is one of a tensor of this shape, and inside it.
bool Fits(const TensorSlice& slice, const TensorInfo& info);

// Refuses a slice that does not fit the tensor of its name, because the files do not belong
// together, or rows and a destination that do not fit the slice. `file` and `shaped_by`, where the
// expected shape is from, are named in errors. The tensor's rows are whole blocks.
absl::Status CheckSlice(const TensorSlice& slice, const TensorInfo& info, int64_t first_row,
                        int64_t rows, size_t destination_bytes, const std::string& file,
                        std::string_view shaped_by);

// A tensor's bytes in a file.
struct StoredTensor {
  DType dtype = DType::kF32;
  std::span<const std::byte> data;
  // Rotary embedding turns pairs of a head's rows: in a slice, i and i + head_dim / 2. Not 0: the
  // head_dim of a tensor that is stored with partners as neighbours.
  int64_t interleaved_head_dim = 0;
};

// The stretches of a file in which `bytes` of each of these rows lie, of rows of `row_bytes`, in
// rising order. Small gaps are part of a stretch.
std::vector<std::span<const std::byte>> RowStretches(std::span<const std::byte> tensor,
                                                     int64_t row_bytes, const IndexRange& rows,
                                                     const IndexRange& bytes);

// The same of a slice, with BlockColumns, of a tensor that is stored as its info says. Empty if the
// slice does not fit the tensor.
std::vector<std::span<const std::byte>> SliceStretches(const TensorSlice& slice,
                                                       const TensorInfo& info,
                                                       std::span<const std::byte> tensor);

// Copies rows of a checked slice, with BlockColumns, in the slice's order.
void CopyRows(const TensorSlice& slice, const StoredTensor& tensor, int64_t first_row, int64_t rows,
              std::span<std::byte> destination);

}  // namespace trireme
