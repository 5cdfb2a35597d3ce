#include <fstream>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_ops.h"
#include "worker/cuda_link.h"
#include "worker/cuda_sampler.h"
#include "worker/device.h"

namespace trireme {
namespace {

// From "NVRM version: NVIDIA UNIX ... Kernel Module  580.65.06  Release Build ...": the first word
// that is numbers and dots.
std::string DriverVersion() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string word;
  while (file >> word) {
    if (word.find('.') != std::string::npos &&
        word.find_first_not_of("0123456789.") == std::string::npos) {
      return word;
    }
  }
  return "";
}

absl::StatusOr<int> CountGpus() {
  ASSIGN_OR_RETURN(const int gpus, cuda::CudaDeviceCount());
  if (gpus < 1) {
    return absl::FailedPreconditionError(
        "--device cuda: there is no GPU; nvidia-smi must list one");
  }
  return gpus;
}

// -1 where there is but one, or in a virtual machine that does not say.
int NumaNodeOfPciDevice(const std::string& bus_id) {
  int node = -1;
  std::ifstream("/sys/bus/pci/devices/" + absl::AsciiStrToLower(bus_id) + "/numa_node") >> node;
  return node;
}

}  // namespace

absl::StatusOr<GpuFacts> DescribeGpus() {
  ASSIGN_OR_RETURN(const int gpus, cuda::CudaDeviceCount());
  std::set<std::string> models;
  for (int gpu = 0; gpu < gpus; ++gpu) {
    ASSIGN_OR_RETURN(std::string model, cuda::CudaDeviceName(gpu));
    models.insert(std::move(model));
  }
  return GpuFacts{absl::StrJoin(models, " and "), DriverVersion()};
}

absl::StatusOr<RankPlace> FindGpu(int local_rank) {
  ASSIGN_OR_RETURN(const int gpus, CountGpus());
  const int gpu = local_rank % gpus;
  RankPlace place;
  ASSIGN_OR_RETURN(place.gpu, cuda::CudaDeviceBusId(gpu));
  place.numa_node = NumaNodeOfPciDevice(place.gpu);
  for (int peer = 0; peer < gpus; ++peer) {
    ASSIGN_OR_RETURN(const bool linked, cuda::HasNvlink(gpu, peer));
    if (!linked) continue;
    ASSIGN_OR_RETURN(place.nvlinks.emplace_back(), cuda::CudaDeviceBusId(peer));
  }
  return place;
}

absl::StatusOr<Device> MakeCudaDevice(const DeviceOptions& options) {
  ASSIGN_OR_RETURN(const int gpus, CountGpus());
  const int gpu = options.local_rank % gpus;
  Device device;
  device.ranks = (options.local_size - gpu + gpus - 1) / gpus;  // gpu, gpu + gpus, ...
  device.kv_dtype_auto = KvDType::kBF16;
  ASSIGN_OR_RETURN(device.ops, cuda::MakeCudaOps(gpu));
  device.link =
      LinkGpus(*device.ops, {.wire = options.wire, .deterministic = options.deterministic});
  device.sampler = MakeCudaSampler;
  return device;
}

}  // namespace trireme
