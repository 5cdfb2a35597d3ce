#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "kernels/tensor.h"
#include "parallel/shard.h"
#include "worker/checkpoint/checkpoint.h"

namespace trireme {

// What every reader does with a slice once it knows where its tensor lies.

// The columns of a slice, widened outward to whole blocks of the data type.
IndexRange BlockColumns(const TensorSlice& slice, DType dtype);

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

// Asks the kernel to read ahead what will be copied. A hint: nothing depends on its success.
void WillNeed(std::span<const std::byte> bytes);

// Copies rows of a checked slice, with BlockColumns, in the slice's order.
void CopyRows(const TensorSlice& slice, const StoredTensor& tensor, int64_t first_row, int64_t rows,
              std::span<std::byte> destination);

}  // namespace trireme
