#pragma once

#include "worker/batch_sampler.h"

namespace trireme {

// On the GPU of `ops`, which are CUDA's (MakeCudaOps): only tokens and log probabilities come to
// the host.
absl::StatusOr<std::unique_ptr<BatchSampler>> MakeCudaSampler(Ops& ops);

}  // namespace trireme
