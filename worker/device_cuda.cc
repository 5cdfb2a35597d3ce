#include "base/status_macros.h"
#include "kernels/cuda/cuda_ops.h"
#include "worker/cuda_link.h"
#include "worker/device.h"

namespace trireme {

absl::StatusOr<Device> MakeCudaDevice(const DeviceOptions& options) {
  ASSIGN_OR_RETURN(const int gpus, cuda::CudaDeviceCount());
  if (gpus < 1) {
    return absl::FailedPreconditionError(
        "--device cuda: there is no GPU; nvidia-smi must list one");
  }
  const int gpu = options.local_rank % gpus;
  Device device;
  device.ranks = (options.local_size - gpu + gpus - 1) / gpus;  // gpu, gpu + gpus, ...
  device.kv_dtype_auto = KvDType::kBF16;
  ASSIGN_OR_RETURN(device.ops, cuda::MakeCudaOps(gpu));
  device.link =
      LinkGpus(*device.ops, {.wire = options.wire, .deterministic = options.deterministic});
  return device;
}

}  // namespace trireme
