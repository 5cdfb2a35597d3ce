#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/kv_layer.h"
#include "kernels/ops.h"
#include "parallel/placement.h"
#include "parallel/wire.h"
#include "worker/batch_sampler.h"
#include "worker/layers/device_link.h"

namespace trireme {

// What a rank can be told to compute on.
struct DeviceOptions {
  std::string name = "cpu";  // --device
  int local_rank = 0;        // among the host's ranks
  int local_size = 1;
  // Of a CPU: as MakeCpuOps.
  int threads = 1;
  std::string cpu_variant = {};
  std::vector<int> cpus = {};
  // Of GPUs: what connects them.
  Wire wire = Wire::kAuto;     // --wire
  bool deterministic = false;  // --deterministic
};

struct Device {
  std::unique_ptr<Ops> ops;
  DeviceLink link = {};                   // of RunnerOptions; must not outlive ops
  SamplerFactory sampler = {};            // of RunnerOptions; null: the host's
  int ranks = 1;                          // that share its memory, this one included
  KvDType kv_dtype_auto = KvDType::kF32;  // of --kv-cache-dtype auto
};

// INVALID_ARGUMENT, "unsupported: ...", for a device that this build cannot compute on. Which it
// can is CMake's choice: worker/device_cuda.cc or worker/device_no_cuda.cc.
absl::StatusOr<Device> MakeDevice(const DeviceOptions& options);

// The GPUs of this host and their driver, to compare hosts: "NVIDIA H100 80GB HBM3", "580.65.06".
// Several models are in alphabetical order.
struct GpuFacts {
  std::string model;
  std::string driver;  // empty: the host does not say
};

// Of --device cuda. Errors as MakeCudaDevice.
absl::StatusOr<GpuFacts> DescribeGpus();

// The GPU that MakeCudaDevice takes, but for the host's name. GPUs that this process does not see,
// as CUDA_VISIBLE_DEVICES hides them, are not among its links. Errors as MakeCudaDevice.
absl::StatusOr<RankPlace> FindGpu(int local_rank);

// --device cuda: the GPU whose number is the local rank modulo the number of GPUs.
absl::StatusOr<Device> MakeCudaDevice(const DeviceOptions& options);

}  // namespace trireme
