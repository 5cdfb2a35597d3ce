#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "kernels/quant/packed.h"
#include "kernels/tensor.h"
#include "parallel/shard.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/read_ahead.h"

namespace trireme {

// A slice of a checkpoint's tensor, how it is stored and how it is to lie in a rank's memory.
struct PlacedSlice {
  const TensorSlice* slice = nullptr;
  DType stored = DType::kF32;
  DType dtype = DType::kF32;                  // in memory
  std::optional<quant::PackedLayout> layout;  // of packed weights
  std::byte* data = nullptr;
  std::vector<float> scales;       // of kFp8 in memory: a row's, behind the rows
  ReadAhead::Stretches stretches;  // in the files

  const std::byte* place() const { return stretches.empty() ? nullptr : stretches.front().data(); }

  // Of a row as the checkpoint gives it, with columns widened to whole blocks.
  int64_t stored_row_bytes() const;
  int64_t stored_bytes() const { return stored_row_bytes() * slice->rows.size(); }
  // Of a row in memory, if it is not packed.
  int64_t row_bytes() const;
  int64_t bytes() const;
  // Of a panel's rows as the checkpoint gives them.
  int64_t room_bytes() const { return quant::kPanelRows * stored_row_bytes(); }
  // Of its first rows in memory; if packed, whole panels.
  int64_t bytes_before(int64_t row) const;
};

// How `slice`, which must outlive the result, is to lie in the memory of `ops`; `data` is still
// null. See Weights::Load.
absl::StatusOr<PlacedSlice> Place(const Checkpoint& checkpoint, const TensorSlice& slice,
                                  const Ops& ops, bool float32);

// Reads rows [first, first + rows) to `to`, memory of the host, as they are to lie in memory; those
// of packed weights begin a panel, and where they leave some of it, it must be zeroed. `room` has
// room_bytes(). Threads may read different rows at once.
absl::Status ReadRows(const Checkpoint& checkpoint, PlacedSlice& placed, int64_t first,
                      int64_t rows, std::span<std::byte> room, std::byte* to);

}  // namespace trireme
