#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace trireme {

// A regular expression with the meaning it has in Hugging Face tokenizers, whose engine is
// Oniguruma (doc/RE of that project), run by PCRE2's JIT. The two differ in what \s, \w, \p{Han},
// \h and a few others match; the pattern is translated, and what cannot be translated faithfully is
// an "unsupported" error. Matching time is bounded by a match limit. Immutable, so thread safe.
class Regex {
 public:
  static absl::StatusOr<Regex> Compile(std::string_view pattern);

  // A regex that matches `text` itself.
  static absl::StatusOr<Regex> Literal(std::string_view text);

  // [begin, end) byte offsets of all matches from left to right in valid UTF-8 text. An empty match
  // just after the previous match is skipped. ResourceExhausted if the match limit is hit.
  absl::StatusOr<std::vector<std::pair<size_t, size_t>>> FindAll(std::string_view text) const;

 private:
  struct Code;
  explicit Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  static absl::StatusOr<Regex> CompilePcre(const std::string& pattern, std::string_view original);

  std::shared_ptr<const Code> code_;
};

// The PCRE2 pattern with the same meaning as an Oniguruma pattern. Exposed for its tests.
absl::StatusOr<std::string> OnigurumaToPcre(std::string_view pattern);

}  // namespace trireme
