#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/text/regex.h"
#include "nlohmann/json.hpp"

namespace trireme {

// Cuts text into the words that BPE merges within: the "pre_tokenizer" of a Hugging Face
// tokenizer.json. Supported: ByteLevel, Split, Digits, and a Sequence of these that ends in
// ByteLevel. Immutable, so thread safe.
class PreTokenizer {
 public:
  // Words of a text. Views point into the text, or into `owned` where a prefix space was added.
  struct Words {
    std::vector<std::string_view> words;
    std::deque<std::string> owned;
  };

  // `json` is the value of key "pre_tokenizer".
  static absl::StatusOr<PreTokenizer> Parse(const nlohmann::json& json);

  // Splits valid UTF-8. No word is empty. ResourceExhausted if a regex hits its match limit.
  absl::StatusOr<Words> Split(std::string_view text) const;

 private:
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct SplitStep {
    Regex regex;
    Behavior behavior;
    bool invert;
  };
  struct DigitsStep {
    bool individual;
  };
  struct PrefixSpaceStep {};
  using Step = std::variant<SplitStep, DigitsStep, PrefixSpaceStep>;
  struct Range {
    size_t begin;
    size_t end;
    bool match;
  };

  absl::Status AddStep(const nlohmann::json& json, const std::string& where, bool last);
  absl::Status AddSplit(const nlohmann::json& json, const std::string& where);
  absl::Status AddByteLevel(const nlohmann::json& json, const std::string& where);
  static absl::StatusOr<std::vector<Range>> Matches(const SplitStep& step, std::string_view text);
  static std::vector<Range> Digits(std::string_view text);
  static void Emit(const std::vector<Range>& ranges, Behavior behavior, std::string_view text,
                   std::vector<std::string_view>& out);

  std::vector<Step> steps_;
};

}  // namespace trireme
