// libFuzzer: input is a tokenizer.json, a zero byte and a text to encode. Nothing may crash or run
// without end. Tokenizers of GGUF files are gguf_fuzz's.

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/byte_pieces.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/utf8.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/tokenizer_use.h"

namespace {

// So that small inputs get past the check for all bytes: adds those to the vocabulary.
std::string WithBytes(std::string_view text) {
  nlohmann::json file = nlohmann::json::parse(text, nullptr, false);
  if (!file.is_object() || !file.contains("model") || !file["model"].is_object() ||
      !file["model"].contains("vocab") || !file["model"]["vocab"].is_object()) {
    return std::string(text);
  }
  nlohmann::json& vocab = file["model"]["vocab"];
  for (int byte = 0; byte < 256; ++byte) {
    std::string symbol;
    trireme::AppendUtf8(trireme::ByteToSymbol(static_cast<uint8_t>(byte)), symbol);
    vocab[symbol] = byte;
    vocab[trireme::BytePieceText(static_cast<uint8_t>(byte))] = byte + 256;
  }
  return file.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void Use(std::string_view file, std::string_view text) {
  const auto tokenizer = trireme::Tokenizer::Parse(file, "fuzz");
  if (tokenizer.ok()) trireme::UseTokenizer(*tokenizer, text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = std::min(input.find('\0'), size);
  const std::string_view text = input.substr(std::min(zero + 1, size));
  Use(input.substr(0, zero), text);
  Use(WithBytes(input.substr(0, zero)), text);
  return 0;
}
