#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

// SentencePiece's precompiled normalization rules: byte strings and what each is replaced by, as a
// Darts double array followed by the replacements. Applied as Hugging Face's "Precompiled" does:
// the shortest rule that a grapheme cluster of less than six bytes begins with replaces the whole
// of it, else each character is looked up by itself. Immutable, so thread safe.
class Charsmap {
 public:
  // InvalidArgument if the table points outside of itself.
  static absl::StatusOr<Charsmap> Create(std::string_view blob);

  // `text` is valid UTF-8, and so is the result.
  std::string Apply(std::string_view text) const;

 private:
  Charsmap() = default;
  // The replacement of the shortest rule that is a prefix of the text.
  std::optional<std::string_view> Find(std::string_view text) const;

  std::vector<uint32_t> units_;
  std::string replacements_;  // each ends in a zero byte
};

}  // namespace trireme
