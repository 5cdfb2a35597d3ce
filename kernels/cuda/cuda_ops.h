#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace trireme::cuda {

// Operations on the GPU `device`, which becomes the calling thread's current one; the Ops belong to
// that thread. They queue kernels on one stream and wait for nothing; what goes wrong shows at the
// next BeginStep, Run or CopyOut. Linear rounds x to the weights' type and ignores `groups`: sums
// have the order of the kernels (linear.h), the same for equal steps.
absl::StatusOr<std::unique_ptr<Ops>> MakeCudaOps(int device);

// The stream of Ops that MakeCudaOps made, a cudaStream_t, for work of others in its order.
void* StreamOf(Ops& ops);

// GPUs that this process sees.
absl::StatusOr<int> CudaDeviceCount();

// "NVIDIA H100 80GB HBM3".
absl::StatusOr<std::string> CudaDeviceName(int device);

// Its PCI bus id: "0000:3B:00.0".
absl::StatusOr<std::string> CudaDeviceBusId(int device);

// Whether two GPUs reach each other's memory over NVLink; false for a GPU and itself. CUDA does not
// say so in as many words: it is where atomic operations reach the peer, which PCIe cannot carry.
absl::StatusOr<bool> HasNvlink(int device, int peer);

}  // namespace trireme::cuda
