#pragma once

#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/text/regex.h"
#include "nlohmann/json.hpp"

namespace trireme {

// Cuts text into the words that a text model encodes one by one: the "pre_tokenizer" of a Hugging
// Face tokenizer.json. Supported: ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace,
// WhitespaceSplit, and a Sequence of these; ByteLevel only as the last. Immutable, so thread safe.
class PreTokenizer {
 public:
  // Words of a text. Views point into the text, or into `owned` where characters were added.
  struct Words {
    std::vector<std::string_view> words;
    std::deque<std::string> owned;
  };

  PreTokenizer() = default;  // the whole text is one word

  // `json` is the value of key "pre_tokenizer".
  static absl::StatusOr<PreTokenizer> Parse(const nlohmann::json& json);

  // Byte-level, with one Split by each pattern in turn that keeps what lies between matches.
  static absl::StatusOr<PreTokenizer> ByteLevelSplits(std::span<const std::string_view> patterns);

  // Whether words are meant as bytes, for a vocabulary in the byte alphabet.
  bool byte_level() const { return byte_level_; }

  // Splits valid UTF-8. No word is empty. `first`: nothing of the whole text comes before this
  // part of it. ResourceExhausted if a regex hits its match limit.
  absl::StatusOr<Words> Split(std::string_view text, bool first) const;

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
  struct PunctuationStep {
    Behavior behavior;
  };
  struct WhitespaceStep {
    bool words_apart;  // also between word characters and others
  };
  struct MetaspaceStep {
    enum class Prefix { kAlways, kFirst, kNever };
    std::string replacement;
    Prefix prefix;
    bool split;
  };
  using Step = std::variant<SplitStep, DigitsStep, PrefixSpaceStep, PunctuationStep, WhitespaceStep,
                            MetaspaceStep>;
  struct Range {
    size_t begin;
    size_t end;
    bool match;
  };

  absl::Status AddStep(const nlohmann::json& json, const std::string& where, bool last);
  absl::Status AddSplit(const nlohmann::json& json, const std::string& where);
  absl::Status AddByteLevel(const nlohmann::json& json, const std::string& where);
  absl::Status AddMetaspace(const nlohmann::json& json, const std::string& where);
  static absl::StatusOr<Behavior> ReadBehavior(const std::string& name, const std::string& where);
  static absl::StatusOr<std::vector<Range>> Matches(const SplitStep& step, std::string_view text);
  static void Emit(const std::vector<Range>& ranges, Behavior behavior, std::string_view text,
                   std::vector<std::string_view>& out);
  static void Metaspace(const MetaspaceStep& step, std::string_view text, bool first, Words& words,
                        std::vector<std::string_view>& out);
  static absl::Status Apply(const Step& step, std::string_view word, bool first, Words& words,
                            std::vector<std::string_view>& out);

  bool byte_level_ = false;
  std::vector<Step> steps_;
};

}  // namespace trireme
