// libFuzzer: input is a tokenizer.json and a zero byte, or a GGUF file and four, and a text to
// encode. Nothing may crash or run without end, and a streamed text must equal the whole but for
// the spaces that a whole text loses.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/byte_pieces.h"
#include "coordinator/text/chat_template.h"
#include "coordinator/text/detokenizer.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/utf8.h"
#include "nlohmann/json.hpp"
#include "parallel/gguf_file.h"

namespace {

constexpr std::string_view kSeparator("\0\0\0\0", 4);

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

std::string WithoutSpaces(std::string text) {
  std::erase(text, ' ');
  return text;
}

void Use(const absl::StatusOr<trireme::Tokenizer>& tokenizer, std::string_view text) {
  if (!tokenizer.ok()) return;
  for (const bool parse_special : {true, false}) {
    const auto ids = tokenizer->Encode(text, {.parse_special = parse_special});
    if (!ids.ok()) continue;
    const std::string whole = tokenizer->Decode(*ids, true);
    trireme::Detokenizer detokenizer(*tokenizer);
    std::string streamed;
    for (const int32_t id : *ids) streamed += detokenizer.Append(id);
    streamed += detokenizer.Flush();
    if (!trireme::IsValidUtf8(whole) || WithoutSpaces(streamed) != WithoutSpaces(whole)) {
      std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.starts_with("GGUF")) {  // which has zero bytes of its own
    const size_t end = std::min(input.rfind(kSeparator), size);
    const auto file =
        trireme::GgufFile::Parse(std::as_bytes(std::span(data, size).subspan(0, end)), "fuzz");
    if (!file.ok()) return 0;
    (void)trireme::ChatTemplate::FromGguf(*file).ok();
    Use(trireme::Tokenizer::FromGguf(*file), input.substr(end));
    return 0;
  }
  const size_t zero = std::min(input.find('\0'), size);
  const std::string_view text = input.substr(std::min(zero + 1, size));
  Use(trireme::Tokenizer::Parse(input.substr(0, zero), "fuzz"), text);
  Use(trireme::Tokenizer::Parse(WithBytes(input.substr(0, zero)), "fuzz"), text);
  return 0;
}
