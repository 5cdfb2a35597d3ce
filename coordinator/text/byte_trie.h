#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace trireme {

// Byte strings with a value each, found as prefixes of a text.
class ByteTrie {
 public:
  // A key that is inserted twice has its later value. An empty key is never found.
  void Insert(std::string_view key, int32_t value) {
    uint32_t node = 0;
    for (const char byte : key) {
      const auto [it, added] =
          edges_.emplace(Edge(node, byte), static_cast<uint32_t>(values_.size()));
      if (added) values_.push_back(-1);
      node = it->second;
    }
    values_[node] = value;
  }

  // Calls visit(bytes, value) for each key that `text` begins with, from short to long.
  template <typename Visit>
  void ForEachPrefix(std::string_view text, const Visit& visit) const {
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const auto it = edges_.find(Edge(node, text[i]));
      if (it == edges_.end()) return;
      node = it->second;
      if (values_[node] >= 0) visit(i + 1, values_[node]);
    }
  }

 private:
  static uint64_t Edge(uint32_t node, char byte) {
    return (static_cast<uint64_t>(node) << 8) | static_cast<uint8_t>(byte);
  }

  absl::flat_hash_map<uint64_t, uint32_t> edges_;  // (node << 8 | byte) → child
  std::vector<int32_t> values_ = {-1};             // by node; -1: no key ends here
};

}  // namespace trireme
