#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/checkpoint/checkpoint.h"

namespace trireme {

// A Hugging Face directory whose config.json has a quantization_config (parallel/
// quantization_config.h). A matrix whose quants and scales are in the files (scaled_tensor.h,
// int4_tensor.h) has the name, shape and order of an unquantised one; all other tensors are as
// stored. Opening refuses parts that are missing or do not fit each other.
bool HasQuantizedSafetensors(const std::filesystem::path& dir);
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenQuantizedSafetensors(
    const std::filesystem::path& dir);

}  // namespace trireme
