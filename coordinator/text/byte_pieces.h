#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "coordinator/text/strings.h"
#include "coordinator/text/vocabulary.h"

namespace trireme {

// SentencePiece's tokens for single bytes, "<0x00>" to "<0xFF>": what a character becomes that no
// token stands for.

inline std::string BytePieceText(uint8_t byte) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  return StrCat("<0x", kDigits.substr(byte >> 4, 1), kDigits.substr(byte & 15, 1), ">");
}

// The byte that "<0x0A>" stands for.
inline std::optional<uint8_t> BytePieceValue(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && !(c >= 'A' && c <= 'F')) return std::nullopt;
    value = value * 16 + (digit ? c - '0' : c - 'A' + 10);
  }
  return static_cast<uint8_t>(value);
}

// The ids of the 256, -1 where there is none.
inline std::array<int32_t, 256> BytePieces(const Vocabulary& vocabulary) {
  std::array<int32_t, 256> ids;
  for (size_t byte = 0; byte < 256; ++byte) {
    ids[byte] = vocabulary.Find(BytePieceText(static_cast<uint8_t>(byte)));
  }
  return ids;
}

}  // namespace trireme
