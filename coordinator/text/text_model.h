#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace trireme {

// The "model" of a tokenizer: how a word, what the pre-tokenizer leaves whole, becomes tokens.
// Immutable, so thread safe.
class TextModel {
 public:
  virtual ~TextModel() = default;

  // Appends the ids of a word of valid UTF-8 (byte-level models take any bytes). Takes no more than
  // O(n log n) in the word's length, for a given vocabulary.
  virtual void Encode(std::string_view word, std::vector<int32_t>& ids) const = 0;
};

}  // namespace trireme
