#pragma once

#include <concepts>
#include <functional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace trireme {

// Abseil as Debian builds it has a string_view of its own, which std::string_view does not convert
// to. These stand in for StrCat, StrAppend and string-keyed maps.

inline void AppendPiece(std::string& out, std::string_view piece) { out.append(piece); }
inline void AppendPiece(std::string& out, const char* piece) { out.append(piece); }
template <std::integral T>
void AppendPiece(std::string& out, T value) {
  out.append(std::to_string(value));
}
template <typename T>
requires requires(const T& view) { view.data() + view.size(); }
void AppendPiece(std::string& out, const T& view) { out.append(view.data(), view.size()); }

// Joins texts and integers.
template <typename... Pieces>
void StrAppend(std::string& out, const Pieces&... pieces) {
  (AppendPiece(out, pieces), ...);
}
template <typename... Pieces>
std::string StrCat(const Pieces&... pieces) {
  std::string out;
  StrAppend(out, pieces...);
  return out;
}

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <typename Value>
using StringMap = absl::flat_hash_map<std::string, Value, StringHash, std::equal_to<>>;
template <typename Value>
using StringViewMap = absl::flat_hash_map<std::string_view, Value, StringHash, std::equal_to<>>;

}  // namespace trireme
