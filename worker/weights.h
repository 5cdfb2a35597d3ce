#pragma once

#include <cstddef>
#include <cstdint>
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

namespace trireme {

// One rank's shard of the weights, packed into memory of its own: a matrix sliced by columns would
// otherwise be scattered over the file's pages. Immutable after Load, so safe to read from any
// thread.
class Weights {
 public:
  // Copies every slice out of the mapped checkpoint into the memory of `ops`, which the Weights do
  // not own, with `threads` threads. Each tensor keeps the checkpoint's data type, but with
  // `float32` F16 and BF16 are widened; matrices of types that the Ops pack are packed
  // (kernels/quant/packed.h) a panel at a time, so the shard is in memory once. `count` may be
  // null.
  static absl::StatusOr<Weights> Load(const Checkpoint& checkpoint,
                                      const std::vector<TensorSlice>& slices, Ops& ops, int threads,
                                      bool float32 = false, LoadCount* count = nullptr);

  // The slice of this name. The view lives as long as the Weights.
  absl::StatusOr<Weight> Find(std::string_view name) const;
  // A vector's values, on the host.
  absl::StatusOr<std::vector<float>> Floats(std::string_view name) const;

  uint64_t bytes() const { return bytes_; }

 private:
  Ops* ops_ = nullptr;
  Buffer memory_;
  uint64_t bytes_ = 0;
  absl::flat_hash_map<std::string, Weight> by_name_;
};

}  // namespace trireme
