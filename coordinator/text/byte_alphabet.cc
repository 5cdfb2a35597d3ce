#include "coordinator/text/byte_alphabet.h"

#include <array>

#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

constexpr bool StandsForItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

constexpr int kSymbols = 256 + 68;  // one past the largest symbol

struct Tables {
  std::array<char32_t, 256> symbol{};
  std::array<int16_t, kSymbols> byte{};
};

constexpr Tables MakeTables() {
  Tables tables;
  for (int16_t& byte : tables.byte) byte = -1;
  char32_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t symbol = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
    tables.symbol[static_cast<size_t>(byte)] = symbol;
    tables.byte[symbol] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

}  // namespace

char32_t ByteToSymbol(uint8_t byte) { return kTables.symbol[byte]; }

std::optional<uint8_t> SymbolToByte(char32_t symbol) {
  if (symbol >= kSymbols || kTables.byte[symbol] < 0) return std::nullopt;
  return static_cast<uint8_t>(kTables.byte[symbol]);
}

std::optional<std::string> SymbolsToBytes(std::string_view symbols) {
  std::string bytes;
  while (!symbols.empty()) {
    const Utf8Step step = NextUtf8(symbols);
    const std::optional<uint8_t> byte = SymbolToByte(step.code_point);
    if (!byte.has_value()) return std::nullopt;
    bytes.push_back(static_cast<char>(*byte));
    symbols.remove_prefix(step.bytes);
  }
  return bytes;
}

}  // namespace trireme
