#include "coordinator/text/charsmap.h"

#include <utf8proc.h>

#include <cstring>

#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

// The fields of a unit of the double array.
bool HasLeaf(uint32_t unit) { return ((unit >> 8) & 1) != 0; }
uint32_t Value(uint32_t unit) { return unit & 0x7FFFFFFF; }
uint32_t Label(uint32_t unit) { return unit & 0x800000FF; }
uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & 0x200) >> 6); }

constexpr size_t kClusterBytesMax = 5;

}  // namespace

absl::StatusOr<Charsmap> Charsmap::Create(std::string_view blob) {
  uint32_t bytes = 0;
  if (blob.size() >= sizeof(bytes)) std::memcpy(&bytes, blob.data(), sizeof(bytes));
  if (bytes == 0 || bytes % sizeof(uint32_t) != 0 || bytes > blob.size() - sizeof(bytes)) {
    return absl::InvalidArgumentError("not a table of normalization rules");
  }
  Charsmap result;
  result.units_.resize(bytes / sizeof(uint32_t));
  std::memcpy(result.units_.data(), blob.data() + sizeof(bytes), bytes);
  result.replacements_ = blob.substr(sizeof(bytes) + bytes);
  // Tokens must be text, whatever the table points at.
  if (!IsValidUtf8(result.replacements_)) {
    return absl::InvalidArgumentError("the normalization rules are not UTF-8");
  }
  return result;
}

std::optional<std::string_view> Charsmap::Find(std::string_view text) const {
  size_t node = Offset(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte == 0) return std::nullopt;
    node ^= byte;
    if (node >= units_.size() || Label(units_[node]) != byte) return std::nullopt;
    const uint32_t unit = units_[node];
    node ^= Offset(unit);
    if (!HasLeaf(unit)) continue;
    const size_t begin = node < units_.size() ? Value(units_[node]) : replacements_.size();
    const size_t end = replacements_.find('\0', begin);
    if (begin >= replacements_.size() || end == std::string::npos) return std::nullopt;
    const std::string_view found = std::string_view(replacements_).substr(begin, end - begin);
    if (!IsValidUtf8(found)) return std::nullopt;  // begins inside a character
    return found;
  }
  return std::nullopt;
}

std::string Charsmap::Apply(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  for (size_t begin = 0; begin < text.size();) {
    // A cluster ends where a break may be between one character and the next.
    Utf8Step step = NextUtf8(text.substr(begin));
    size_t end = begin + step.bytes;
    utf8proc_int32_t state = 0;
    while (end < text.size()) {
      const Utf8Step next = NextUtf8(text.substr(end));
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(step.code_point),
                                           static_cast<utf8proc_int32_t>(next.code_point),
                                           &state)) {
        break;
      }
      end += next.bytes;
      step = next;
    }
    const std::string_view cluster = text.substr(begin, end - begin);
    begin = end;
    if (cluster.size() <= kClusterBytesMax) {
      if (const auto found = Find(cluster); found.has_value()) {
        out.append(*found);
        continue;
      }
    }
    for (size_t pos = 0; pos < cluster.size();) {
      const std::string_view character = cluster.substr(pos, NextUtf8(cluster.substr(pos)).bytes);
      out.append(Find(character).value_or(character));
      pos += character.size();
    }
  }
  return out;
}

}  // namespace trireme
