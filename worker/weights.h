#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "kernels/memory.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"
#include "parallel/shard.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/load_progress.h"
#include "worker/mapped_panels.h"

namespace trireme {

struct LoadOptions {
  int threads = 1;             // that read and pack
  bool float32 = false;        // widens F16 and BF16
  bool mapped = false;         // packs matrices when they are used, if the file cache has them
  LoadCount* count = nullptr;  // counts the bytes that are read; may be null
};

// One rank's shard of the weights, packed into memory of its own: a matrix sliced by columns would
// otherwise be scattered over the file's pages. Nobody but products (mapped_panels.h) changes it
// after Load, so it is safe to read from any thread.
class Weights {
 public:
  // Copies every slice out of the mapped checkpoint into the memory of `ops`, which the Weights do
  // not own. Each tensor keeps the checkpoint's data type, but for `float32`; matrices of types
  // that the Ops pack are packed (kernels/quant/packed.h) a panel at a time, so the shard is in
  // memory once. FP8 stays as it is where the Ops multiply it and the slice is of a shape that they
  // take; else it is read as BF16. With `mapped`, the checkpoint must outlive the Weights.
  static absl::StatusOr<Weights> Load(const Checkpoint& checkpoint,
                                      const std::vector<TensorSlice>& slices, Ops& ops,
                                      const LoadOptions& options = {});

  // The slice of this name. The view lives as long as the Weights.
  absl::StatusOr<Weight> Find(std::string_view name) const;
  // A vector's values, on the host.
  absl::StatusOr<std::vector<float>> Floats(std::string_view name) const;

  uint64_t bytes() const { return bytes_; }
  // Of them, those that `mapped` has not written yet.
  int64_t bytes_to_come() const;

 private:
  // Takes out of `placed` what is packed when it is used; nothing, if that must be read first.
  absl::Status Map(const Checkpoint& checkpoint, std::vector<PlacedSlice>& placed);

  Ops* ops_ = nullptr;
  Buffer memory_;
  uint64_t bytes_ = 0;
  absl::flat_hash_map<std::string, Weight> by_name_;
  std::vector<std::unique_ptr<MappedPanels>> mapped_;
};

}  // namespace trireme
