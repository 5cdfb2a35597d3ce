#include "worker/device.h"

namespace trireme {

namespace {

absl::Status NoCuda() {
  return absl::InvalidArgumentError(
      "unsupported: --device cuda: this build has no CUDA; configure with the CUDA toolkit "
      "installed "
      "(cmake --preset cuda, or -DTRIREME_CUDA=ON)");
}

}  // namespace

absl::StatusOr<Device> MakeCudaDevice(const DeviceOptions&) { return NoCuda(); }

absl::StatusOr<GpuFacts> DescribeGpus() { return NoCuda(); }

absl::StatusOr<RankPlace> FindGpu(int) { return NoCuda(); }

}  // namespace trireme
