#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace trireme {

// The byte alphabet of GPT-2: each of the 256 bytes has a printable character, so that a vocabulary
// of byte strings can be written as text. Printable Latin-1 stands for itself; the 68 others are
// U+0100 and following, in order.

char32_t ByteToSymbol(uint8_t byte);

std::optional<uint8_t> SymbolToByte(char32_t symbol);

// The bytes a vocabulary entry stands for, or nothing if it has a character outside the alphabet.
std::optional<std::string> SymbolsToBytes(std::string_view symbols);

}  // namespace trireme
