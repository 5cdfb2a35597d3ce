#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

namespace trireme {

// Names the content of a KV cache block: the tokens in it and all before it, under one namespace.
struct BlockHash {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const BlockHash&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const BlockHash& hash) {
    return H::combine(std::move(h), hash.high, hash.low);
  }
};

// Secret of this process: without it nobody can craft two prompts with the same hash.
using HashKey = std::array<uint64_t, 2>;

// The root of a namespace, and the hash of a block that follows another. SipHash-2-4 with 128 bits
// (Aumasson and Bernstein 2012). Pure functions.
BlockHash HashNamespace(const HashKey& key, std::string_view name);
BlockHash HashBlock(const HashKey& key, const BlockHash& parent, std::span<const int32_t> tokens);

}  // namespace trireme
