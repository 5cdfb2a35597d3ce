// Any bytes as a safetensors file: parsed or refused, and what is parsed lies inside the file.

#include <cstdlib>
#include <span>

#include "worker/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  const auto entries = trireme::ParseSafetensors(file, "fuzz");
  if (!entries.ok()) return 0;
  for (const auto& [name, entry] : *entries) {
    if (entry.offset > size || entry.bytes > size - entry.offset) std::abort();
  }
  return 0;
}
