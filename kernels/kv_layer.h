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

constexpr int64_t KvElementBytes(KvDType dtype) {
  return dtype == KvDType::kF32 ? 4 : dtype == KvDType::kBF16 ? 2 : 1;
}

// Positions whose keys lie together, dimension by dimension, so that a vector holds one dimension
// of all of them: their scores are computed side by side.
inline constexpr int64_t kKeyGroup = 16;

// Bytes of one KV head's keys (or values) in one page: block_size x head_dim elements, then with
// int8 block_size float scales. Values are [block_size, head_dim], keys
// [block_size / kKeyGroup, head_dim, kKeyGroup].
constexpr int64_t KvHeadBytes(KvDType dtype, int64_t block_size, int64_t head_dim) {
  const int64_t scales = dtype == KvDType::kInt8 ? static_cast<int64_t>(sizeof(float)) : 0;
  return block_size * (head_dim * KvElementBytes(dtype) + scales);
}

// The KV cache of one layer on one rank: k and v are each pages of num_kv_heads heads of
// KvHeadBytes, aligned to 4 bytes. block_size is a multiple of kKeyGroup tokens. Does not own its
// data.
struct KvLayer {
  std::byte* k = nullptr;
  std::byte* v = nullptr;
  KvDType dtype = KvDType::kF32;
  int64_t num_kv_heads = 0;
  int64_t block_size = 0;
  int64_t head_dim = 0;

  int64_t head_bytes() const { return KvHeadBytes(dtype, block_size, head_dim); }
  int64_t page_bytes() const { return num_kv_heads * head_bytes(); }
};

}  // namespace trireme
