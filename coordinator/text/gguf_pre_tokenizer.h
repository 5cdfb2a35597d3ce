#pragma once

#include <span>
#include <string_view>

#include "absl/status/statusor.h"

namespace trireme {

// What "tokenizer.ggml.pre" of a GGUF file stands for: how a byte-level vocabulary is used.
struct GgufPreTokenizer {
  // A text is split by each in turn; what lies between matches is a word too.
  std::span<const std::string_view> patterns;
  bool ignore_merges = false;  // a word that is a token is not merged from its bytes
  bool add_bos = false;        // where the file does not say
};

// "unsupported: …" with the name if it is not known. The result lives for ever.
absl::StatusOr<GgufPreTokenizer> FindGgufPreTokenizer(std::string_view name);

}  // namespace trireme
