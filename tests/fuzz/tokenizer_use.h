#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>

#include "coordinator/text/detokenizer.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/utf8.h"

namespace trireme {

inline std::string WithoutSpaces(std::string text) {
  std::erase(text, ' ');
  return text;
}

// A streamed text must equal the whole but for the spaces that a whole text loses.
inline void UseTokenizer(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool parse_special : {true, false}) {
    const auto ids = tokenizer.Encode(text, {.parse_special = parse_special});
    if (!ids.ok()) continue;
    const std::string whole = tokenizer.Decode(*ids, true);
    Detokenizer detokenizer(tokenizer);
    std::string streamed;
    for (const int32_t id : *ids) streamed += detokenizer.Append(id);
    streamed += detokenizer.Flush();
    if (!IsValidUtf8(whole) || WithoutSpaces(streamed) != WithoutSpaces(whole)) std::abort();
  }
}

}  // namespace trireme
