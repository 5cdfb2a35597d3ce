#include "parallel/backends/nccl_library.h"

namespace trireme {

absl::StatusOr<NcclApi> LoadNccl() {
  return absl::FailedPreconditionError(
      "this build has no NCCL; configure with nccl.h installed (package libnccl-dev)");
}

}  // namespace trireme
