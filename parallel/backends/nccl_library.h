#pragma once

#include "absl/status/statusor.h"
#include "parallel/backends/nccl_api.h"

namespace trireme {

// The functions of this machine's NCCL, libnccl.so.2, which is loaded at the first call and stays:
// a program runs without it where ranks do not need it. FAILED_PRECONDITION if it cannot be loaded,
// is older than 2.14, or this build was made without its header. CMake chooses the file:
// nccl_library.cc, or nccl_no_library.cc.
absl::StatusOr<NcclApi> LoadNccl();

}  // namespace trireme
