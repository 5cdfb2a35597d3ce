#include "worker/device.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {

absl::StatusOr<Device> MakeDevice(const DeviceOptions& options) {
  if (options.name == "cuda") return MakeCudaDevice(options);
  if (options.name != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("unsupported: --device ", options.name, "; it is cpu or cuda"));
  }
  Device device;
  device.ranks = options.local_size;
  ASSIGN_OR_RETURN(device.ops, MakeCpuOps(options.threads, options.cpu_variant, options.cpus));
  return device;
}

}  // namespace trireme
