#include "parallel/backends/ucx.h"

namespace trireme {

absl::StatusOr<std::unique_ptr<UcxPort>> OpenUcxPort(const UcxOptions& /*options*/) {
  return absl::UnimplementedError(
      "unsupported: this build has no UCX, which gangs without mpirun need; install libucx-dev and "
      "build again, or start the ranks with mpirun");
}

}  // namespace trireme
