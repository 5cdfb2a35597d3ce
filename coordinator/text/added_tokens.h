#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/text/byte_trie.h"

namespace trireme {

// A token that is found in text as a whole, before any splitting: an entry of "added_tokens".
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // control token: not found when special tokens are not parsed
  bool lstrip = false;       // takes the white space on its left with it
  bool rstrip = false;       // and on its right
  bool single_word = false;  // only where no word character touches it
  bool normalized = false;   // searched for in the normalized text, not in the raw one
};

// A part of a text: a token (id >= 0), or text that still has to be encoded (id < 0).
struct TextSegment {
  std::string_view text;
  int32_t id = -1;
};

// Finds a set of added tokens: at the leftmost position, the longest. Immutable, so thread safe.
class AddedTokenMatcher {
 public:
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // Appends the segments of `text`, valid UTF-8; they cover it, less the stripped white space.
  // Special tokens count as text unless `parse_special`.
  void Split(std::string_view text, bool parse_special, std::vector<TextSegment>& segments) const;

 private:
  // Index of the longest token at the start of `text`, or -1.
  int32_t LongestAt(std::string_view text) const;

  std::vector<AddedToken> tokens_;
  ByteTrie trie_;          // their indices
  bool starts_[256] = {};  // bytes that some token begins with
};

}  // namespace trireme
