#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/text/charsmap.h"
#include "coordinator/text/normal_form.h"
#include "coordinator/text/regex.h"
#include "nlohmann/json.hpp"

namespace trireme {

// What is done to text before it is cut into words: the "normalizer" of a Hugging Face
// tokenizer.json. Supported: NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend,
// Replace, Precompiled, and a Sequence of these. Immutable, so thread safe.
class Normalizer {
 public:
  Normalizer() = default;  // changes nothing

  // `json` is the value of key "normalizer".
  static absl::StatusOr<Normalizer> Parse(const nlohmann::json& json);

  // SentencePiece's: a space before any text that is not empty, if `prefix`, then "▁" for spaces.
  static Normalizer Spaces(bool prefix);
  // SentencePiece's where it leaves out extra spaces: one "▁" before each word, none elsewhere.
  static Normalizer MergedSpaces();
  // The charsmap's rules, then these.
  Normalizer After(Charsmap charsmap) &&;

  bool empty() const { return steps_.empty(); }

  // `text` is valid UTF-8, and so is the result. ResourceExhausted if a regex hits its match limit.
  absl::StatusOr<std::string> Apply(std::string_view text) const;

 private:
  struct Prepend {
    std::string text;
  };
  struct ReplaceText {
    std::string pattern;  // not empty
    std::string content;
  };
  struct ReplaceRegex {
    Regex pattern;
    std::string content;
  };
  struct Lowercase {};
  struct StripAccents {};
  struct Strip {
    bool left;
    bool right;
  };
  struct MergeSpaces {};
  using Step = std::variant<NormalForm, Prepend, ReplaceText, ReplaceRegex, Lowercase, StripAccents,
                            Strip, MergeSpaces, Charsmap>;

  absl::Status AddStep(const nlohmann::json& json, const std::string& where, int depth);
  absl::Status AddReplace(const nlohmann::json& json, const std::string& where);
  absl::Status AddPrecompiled(const nlohmann::json& json, const std::string& where);

  std::vector<Step> steps_;
};

}  // namespace trireme
