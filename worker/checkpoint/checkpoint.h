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
  std::string stored_type;    // as the file names it, for example "BF16" or "I64"
  std::vector<int64_t> shape;
};

// The weights of a model on disk, mapped read-only: only the bytes of the slices that are read are
// touched. Readers are the table in checkpoint.cc: a new format is one file beside this one and one
// row. Thread safe.
class Checkpoint {
 public:
  // Opens the checkpoint in a directory with the first reader that knows its files. The error names
  // the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::filesystem::path& dir);

  virtual ~Checkpoint() = default;

  // The directory or file, for messages.
  virtual const std::string& origin() const = 0;
  // The tensor of this name, or nullptr.
  virtual const TensorInfo* Find(std::string_view name) const = 0;
  // Copies a slice, packed row by row, in the tensor's own data type. Refuses a tensor that is
  // missing, has another shape than the slice's full one, or is not stored as F32, F16 or BF16: the
  // error names file, tensor, what was expected and what was found. `destination` has the slice's
  // size.
  virtual absl::Status Read(const TensorSlice& slice, std::span<std::byte> destination) const = 0;
  // Bytes copied by Read so far.
  virtual uint64_t bytes_read() const = 0;
};

}  // namespace trireme
