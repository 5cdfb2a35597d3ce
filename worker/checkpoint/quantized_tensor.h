#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "parallel/shard.h"
#include "worker/checkpoint/checkpoint.h"

namespace trireme {

// A matrix that a checkpoint keeps in several tensors, quants and scales, shown as one of Hugging
// Face's shape [rows, columns] in one of our data types. Immutable, so thread safe; the mapped
// files must outlive it.
class QuantizedTensor {
 public:
  virtual ~QuantizedTensor() = default;

  const TensorInfo& info() const { return info_; }

  // Where the quants of these rows and columns, all inside the matrix, lie in the mapped files: as
  // Checkpoint::Stretches. Scales are small beside them.
  virtual std::vector<std::span<const std::byte>> Stretches(const IndexRange& rows,
                                                            const IndexRange& cols) const = 0;

  // Writes the stored blocks of `rows` rows and of columns that are whole blocks, all inside the
  // matrix, row by row. The error, without the tensor's name, says what its values have wrong.
  virtual absl::Status Read(int64_t first_row, int64_t rows, const IndexRange& cols,
                            std::byte* to) const = 0;

 protected:
  explicit QuantizedTensor(TensorInfo info) : info_(std::move(info)) {}

 private:
  const TensorInfo info_;
};

}  // namespace trireme
