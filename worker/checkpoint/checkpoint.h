#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/tensor.h"
#include "parallel/shard.h"

namespace trireme {

struct TensorInfo {
  DType dtype = DType::kF32;  // meaningless if stored_type is none of ours; Read then refuses
  std::string stored_type;    // as the file names it, for example "BF16" or "Q4_K"
  std::vector<int64_t> shape;
};

// The weights of a model on disk, mapped read-only: only the bytes of the slices that are read are
// touched. Tensors have their Hugging Face names, shapes and order of rows, whatever the format.
// Readers are the table in checkpoint.cc: a new format is one file beside this one and one
// row. Thread safe.
class Checkpoint {
 public:
  // Opens the checkpoint in a directory, or the one that a file is, with the first reader that
  // knows it. The error names the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::filesystem::path& path);

  virtual ~Checkpoint() = default;

  // The directory or file, for messages.
  virtual const std::string& origin() const = 0;
  // The tensor of this Hugging Face name, or nullptr.
  virtual const TensorInfo* Find(std::string_view name) const = 0;

  // Copies a slice, packed row by row, in the tensor's own data type. Refuses a tensor that is
  // missing, has another shape than the slice's full one, or is not stored in one of our data
  // types: the error names file, tensor, what was expected and what was found. The columns of a
  // quantised tensor must be whole blocks. `destination` has the slice's size.
  absl::Status Read(const TensorSlice& slice, std::span<std::byte> destination) const;

  // Copies rows [first_row, first_row + rows) of a slice, counted from slice.rows.begin, packed row
  // by row. Columns are widened outward to whole blocks of the tensor's data type (BlockColumns in
  // slice.h), because a rank's columns may begin inside a block; where a block is one element, it
  // is as Read. Refuses what Read refuses.
  virtual absl::Status ReadBlocks(const TensorSlice& slice, int64_t first_row, int64_t rows,
                                  std::span<std::byte> destination) const = 0;

  // Where ReadBlocks of the whole slice finds its bytes in the mapped files, in the files' order;
  // gaps that are not worth a request of their own are read with it. Empty if it is refused, or has
  // no files. To plan the reading: slices are best read in the order of these addresses.
  virtual std::vector<std::span<const std::byte>> Stretches(const TensorSlice& slice) const = 0;

  // Bytes copied so far.
  virtual uint64_t bytes_read() const = 0;
};

}  // namespace trireme
