#pragma once

#include "absl/status/statusor.h"
#include "parallel/backends/nccl.h"

namespace trireme {

// The functions of the NCCL that this program is linked with. Only built where CUDA and NCCL are
// (target communicator_nccl).
NcclApi NcclLibrary();

// Where the calling thread computes: this machine and the thread's current CUDA device. `stream` is
// a cudaStream_t of that device. UNAVAILABLE without a device.
absl::StatusOr<NcclPlace> FindNcclPlace(NcclStream stream);

}  // namespace trireme
