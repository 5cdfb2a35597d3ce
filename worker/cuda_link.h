#pragma once

#include "kernels/ops.h"
#include "parallel/wire.h"
#include "worker/layers/device_link.h"

namespace trireme {

struct GpuLinkOptions {
  Wire wire = Wire::kAuto;
  bool deterministic = false;
};

// Connects GPUs by the wire that ChooseWire finds best for the group, and logs which and why. NCCL
// is loaded if more than one rank wants it. `ops` are CUDA's (MakeCudaOps) and outlive what the
// link makes, which belongs to their thread. Errors: ChooseWire's and those of the wire; by --wire
// auto a group that turns out not to be able to use IPC gets the next best.
DeviceLink LinkGpus(Ops& ops, const GpuLinkOptions& options);

}  // namespace trireme
