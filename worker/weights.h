#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "kernels/tensor.h"
#include "parallel/shard.h"
#include "worker/checkpoint/checkpoint.h"

namespace trireme {

// Zeroed, page-aligned memory from the system, in huge pages where it gives them; touched pages
// only cost memory. Movable.
class PageMemory {
 public:
  PageMemory() = default;
  static absl::StatusOr<PageMemory> Allocate(size_t bytes);
  PageMemory(PageMemory&& other) noexcept;
  PageMemory& operator=(PageMemory&& other) noexcept;
  PageMemory(const PageMemory&) = delete;
  PageMemory& operator=(const PageMemory&) = delete;
  ~PageMemory();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// One rank's shard of the weights, packed into memory of its own: a matrix sliced by columns would
// otherwise be scattered over the file's pages. Immutable after Load, so safe to read from any
// thread.
class Weights {
 public:
  // Copies every slice out of the mapped checkpoint with `threads` threads. Each tensor keeps the
  // checkpoint's data type, but with `float32` F16 and BF16 are widened; quantised ones are packed
  // for the kernels (kernels/quant/packed.h) a panel at a time, so the shard is in memory once.
  static absl::StatusOr<Weights> Load(const Checkpoint& checkpoint,
                                      const std::vector<TensorSlice>& slices, int threads,
                                      bool float32 = false);

  // The slice of this name. The view lives as long as the Weights.
  absl::StatusOr<Weight> Find(std::string_view name) const;

  uint64_t bytes() const { return bytes_; }

 private:
  PageMemory memory_;
  uint64_t bytes_ = 0;
  absl::flat_hash_map<std::string, Weight> by_name_;
};

}  // namespace trireme
