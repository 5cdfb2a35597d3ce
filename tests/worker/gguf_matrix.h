#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace trireme {

// Tiny random GGUF models, every architecture in every tensor type. tools/make_gguf_matrix.py
// describes the same bytes and gives the logits.

// "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma3".
std::vector<std::string> GgufMatrixModels();

// "F32", "F16", "BF16", "Q4_0", ...: the types of weight matrices.
std::vector<std::string> GgufMatrixTypes();

// Writes one of them; aborts on names not listed above.
void WriteGgufMatrixModel(const std::filesystem::path& path, const std::string& model,
                          const std::string& type);

}  // namespace trireme
