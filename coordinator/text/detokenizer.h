#pragma once

#include <cstdint>
#include <string>

#include "coordinator/text/tokenizer.h"

namespace trireme {

// Turns the growing ids of one sequence into text for a stream. Special tokens give no text. What
// all calls return, joined, equals Tokenizer::Decode(ids, /*skip_special=*/true) but for the spaces
// that are taken away from the beginning of a whole text: a stream goes on after its prompt. No
// piece ends inside a character. Not thread safe: one for each sequence.
class Detokenizer {
 public:
  explicit Detokenizer(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

  // The characters that this token completes; often a part of it, possibly none.
  std::string Append(int32_t id);

  // After the last token: U+FFFD if a character was left unfinished. Then as new.
  std::string Flush();

 private:
  Tokenizer tokenizer_;
  std::string pending_;  // the bytes of an unfinished character, at most 3
};

}  // namespace trireme
