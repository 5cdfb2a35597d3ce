#pragma once

#include "absl/status/statusor.h"
#include "parallel/backends/nccl.h"

namespace trireme {

// Where the calling thread computes: this machine and the thread's current CUDA device. `stream` is
// a cudaStream_t of that device. UNAVAILABLE without a device. Needs CUDA, but no NCCL.
absl::StatusOr<NcclPlace> FindNcclPlace(NcclStream stream);

}  // namespace trireme
