#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace trireme {

// How the KV cache holds a key or value: as it is; rounded to bfloat16 (nearest, ties to even); or
// as int8 times a float32 scale for each token and KV head, largest magnitude / 127.
enum class KvDType : uint8_t { kF32, kBF16, kInt8 };

constexpr std::string_view KvDTypeName(KvDType dtype) {
  switch (dtype) {
    case KvDType::kF32:
      return "f32";
    case KvDType::kBF16:
      return "bf16";
    case KvDType::kInt8:
      return "int8";
  }
  return "?";
}

// The type of this name, or nullopt.
constexpr std::optional<KvDType> ParseKvDType(std::string_view name) {
  for (const KvDType dtype : {KvDType::kF32, KvDType::kBF16, KvDType::kInt8}) {
    if (name == KvDTypeName(dtype)) return dtype;
  }
  return std::nullopt;
}

}  // namespace trireme
