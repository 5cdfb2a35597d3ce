#pragma once

#include <cstddef>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace trireme {

// What every rank does at the same time.
struct BandwidthTest {
  size_t bytes_per_thread = size_t{512} << 20;  // read by each thread of a CPU
  size_t copy_bytes = size_t{256} << 20;        // copied within a device's memory
  int passes = 5;                               // of which the best counts
};

// Gigabytes per second.
struct MemoryBandwidth {
  double own = 0;  // of this rank
  double all = 0;  // of all ranks together, from the first's start to the last's end
};

// What ranks reach in the memory of their Ops: by reading with all threads (of a host), or by
// copying (of a device; bytes read and written). Collective over `world`.
absl::StatusOr<MemoryBandwidth> MeasureMemoryBandwidth(const BandwidthTest& test, Ops& ops,
                                                       Communicator& world);

}  // namespace trireme
