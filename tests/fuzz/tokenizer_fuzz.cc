// libFuzzer: input is a tokenizer.json, a zero byte, and a text to encode with it. Nothing may
// crash or run without end, and a streamed text must equal the whole.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/detokenizer.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/utf8.h"
#include "nlohmann/json.hpp"

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
  }
  return file.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = std::min(input.find('\0'), size);
  const std::string_view text = input.substr(std::min(zero + 1, size));
  (void)trireme::Tokenizer::Parse(input.substr(0, zero), "fuzz").ok();
  const auto tokenizer = trireme::Tokenizer::Parse(WithBytes(input.substr(0, zero)), "fuzz");
  if (!tokenizer.ok()) return 0;
  for (const bool parse_special : {true, false}) {
    const auto ids = tokenizer->Encode(text, {.parse_special = parse_special});
    if (!ids.ok()) continue;
    const std::string whole = tokenizer->Decode(*ids, true);
    trireme::Detokenizer detokenizer(*tokenizer);
    std::string streamed;
    for (const int32_t id : *ids) streamed += detokenizer.Append(id);
    streamed += detokenizer.Flush();
    if (streamed != whole || !trireme::IsValidUtf8(whole)) std::abort();
  }
  return 0;
}
