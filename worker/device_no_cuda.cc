#include "worker/device.h"

namespace trireme {

absl::StatusOr<Device> MakeCudaDevice(const DeviceOptions&) {
  return absl::InvalidArgumentError(
      "unsupported: --device cuda: this build has no CUDA; configure with the CUDA toolkit "
      "installed "
      "(cmake --preset cuda, or -DTRIREME_CUDA=ON)");
}

}  // namespace trireme
