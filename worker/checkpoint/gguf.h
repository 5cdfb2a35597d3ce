#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "parallel/gguf_file.h"
#include "worker/checkpoint/checkpoint.h"

namespace trireme {

// A GGUF file, or a model in several of which it is the first, under Hugging Face's names. Experts
// that the file keeps in one tensor of three dimensions are a matrix each; the rows of queries and
// keys that llama.cpp stores for interleaved rotary pairs ("llama" only) are put back in order
// while reading. A tensor that the architecture does not have is refused: the model would not be
// the file's without it.
bool IsGguf(const std::filesystem::path& path);
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGguf(const std::filesystem::path& path);
absl::StatusOr<std::unique_ptr<Checkpoint>> GgufCheckpoint(GgufFile file);

}  // namespace trireme
