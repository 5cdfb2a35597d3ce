#include "parallel/backends/nccl_place.h"

#include <cuda_runtime_api.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

std::string HostName() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

// Containers have names of their own, but the kernel's boot is the machine's.
std::string MachineId() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id.empty() ? HostName() : id;
}

}  // namespace

absl::StatusOr<NcclPlace> FindNcclPlace(NcclStream stream) {
  int device = 0;
  std::array<char, 32> bus_id{};
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()), device);
  }
  if (error != cudaSuccess) {
    return absl::UnavailableError(
        absl::StrCat("nccl: no CUDA device: ", cudaGetErrorString(error),
                     "; see that nvidia-smi lists the GPU and CUDA_VISIBLE_DEVICES does not hide "
                     "it, or use --device cpu"));
  }
  return NcclPlace{
      .host = HostName(), .machine_id = MachineId(), .pci_bus_id = bus_id.data(), .stream = stream};
}

}  // namespace trireme
