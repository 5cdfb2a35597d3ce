#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace trireme {

// True if the directory has a safetensors checkpoint: model.safetensors, or its index.
bool HasSafetensorsFiles(const std::filesystem::path& dir);

// The data type of every tensor of such a checkpoint as the headers name it ("BF16", "I32"), by the
// tensor's name. Reads headers only: places and shapes are the loader's to check. Errors name the
// file. Specification: https://huggingface.co/docs/safetensors.
absl::StatusOr<std::map<std::string, std::string, std::less<>>> SafetensorsTypes(
    const std::filesystem::path& dir);

}  // namespace trireme
