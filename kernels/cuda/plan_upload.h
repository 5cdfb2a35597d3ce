#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/step_batch.h"

namespace trireme::cuda {

// A step as its kernels read it: one piece of memory, so that one copy brings it to the device.

// What follows from a batch, and with it from a graph's bucket: sizes of arrays, grids.
struct PlanShape {
  int64_t tokens = 0;     // padding included
  int64_t sequences = 0;  // each padding token is one of its own
  int64_t blocks = 0;     // columns of the block tables
  int64_t query_max = 0;  // most tokens of one sequence
  int64_t angles = 0;     // floats of each array of angles: tokens * head_dim / 2
  bool local_angles = false;
  int64_t wanted = 0;

  bool operator==(const PlanShape&) const = default;
};

// Sequences are told apart by their block tables; the longest decides the columns (GraphBlocks).
PlanShape ShapeOf(const StepBatch& batch);

// Where in the piece, in bytes, the arrays lie; each at a multiple of 256. The same for equal
// shapes.
struct PlanLayout {
  explicit PlanLayout(const PlanShape& shape);

  size_t ids = 0;                // int32 [tokens]; negative ones as they are
  size_t positions = 0;          // int32 [tokens]; -1: padding
  size_t sequence_of_token = 0;  // int32 [tokens]
  size_t query_start = 0;        // int32 [sequences + 1]: a sequence's first token
  size_t block_tables = 0;       // int32 [sequences, blocks]; 0 behind a sequence's last block
  size_t wanted = 0;             // int32 [wanted]
  size_t cos = 0, sin = 0;       // float [angles]
  size_t local_cos = 0, local_sin = 0;
  size_t bytes = 0;
};

// Writes the arrays to `to`, of the layout's bytes.
void PackPlan(const StepBatch& batch, const PlanShape& shape, const PlanLayout& layout,
              std::span<std::byte> to);

}  // namespace trireme::cuda
