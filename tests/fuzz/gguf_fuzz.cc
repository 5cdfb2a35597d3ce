// Any bytes as a GGUF file: parsed or refused, what is parsed lies inside the file, and its shape
// can be sharded.

#include <cstdlib>
#include <span>

#include "parallel/gguf_config.h"
#include "parallel/gguf_file.h"
#include "parallel/layout.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto file = trireme::GgufFile::Parse(bytes, "fuzz");
  if (!file.ok()) return 0;
  for (const trireme::GgufTensor& tensor : file->tensors()) {
    if (tensor.data.data() < bytes.data() ||
        tensor.data.data() + tensor.data.size() > bytes.data() + size) {
      std::abort();
    }
    if (file->FindTensor(tensor.name) != &tensor) std::abort();
  }
  const auto config = trireme::GgufModelConfig(*file);
  if (!config.ok()) return 0;
  if (config->NumParameters() == 0 || config->LayerWindow(config->num_layers - 1) < 0) std::abort();
  (void)trireme::CheckLayout(*config, {.tp = 2, .pp = 2}).ok();
  return 0;
}
