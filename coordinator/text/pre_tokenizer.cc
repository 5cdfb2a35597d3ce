#include "coordinator/text/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "coordinator/text/json_fields.h"
#include "coordinator/text/metaspace.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/unicode.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

constexpr size_t kStepsMax = 32;

// What ByteLevel with use_regex splits by: the pattern of GPT-2.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// How many bytes of characters that `member` accepts the text begins with.
template <typename Member>
size_t RunBytes(std::string_view text, const Member& member) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(bytes));
    if (!member(step.code_point)) break;
    bytes += step.bytes;
  }
  return bytes;
}

absl::Status WithKey(const absl::Status& status, std::string_view where) {
  return absl::Status(status.code(), StrCat(where, ": ", status.message()));
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Parse(const nlohmann::json& json) {
  PreTokenizer result;
  if (JsonType(json) != "Sequence") {
    RETURN_IF_ERROR(result.AddStep(json, "pre_tokenizer", true));
    return result;
  }
  const nlohmann::json& list = JsonMember(json, "pretokenizers");
  if (!list.is_array() || list.empty() || list.size() > kStepsMax) {
    return absl::InvalidArgumentError(
        StrCat("pre_tokenizer.pretokenizers: not a list of 1 to ", kStepsMax));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    RETURN_IF_ERROR(result.AddStep(list[i], StrCat("pre_tokenizer.pretokenizers[", i, "]"),
                                   i + 1 == list.size()));
  }
  return result;
}

absl::StatusOr<PreTokenizer> PreTokenizer::ByteLevelSplits(
    std::span<const std::string_view> patterns) {
  PreTokenizer result;
  result.byte_level_ = true;
  for (const std::string_view pattern : patterns) {
    ASSIGN_OR_RETURN(Regex regex, Regex::Compile(pattern));
    result.steps_.emplace_back(SplitStep{std::move(regex), Behavior::kIsolated, false});
  }
  return result;
}

absl::Status PreTokenizer::AddStep(const nlohmann::json& json, const std::string& where,
                                   bool last) {
  if (json.is_null()) return absl::OkStatus();
  const std::string type = JsonType(json);
  if (type == "ByteLevel" && last) return AddByteLevel(json, where);
  if (type == "Metaspace") return AddMetaspace(json, where);
  if (type == "Split") return AddSplit(json, where);
  if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual, JsonBool(json, "individual_digits", false, where));
    steps_.emplace_back(DigitsStep{individual});
    return absl::OkStatus();
  }
  if (type == "Whitespace" || type == "WhitespaceSplit") {
    steps_.emplace_back(WhitespaceStep{type == "Whitespace"});
    return absl::OkStatus();
  }
  if (type == "Punctuation") {
    const bool named = !JsonMember(json, "behavior").is_null();
    ASSIGN_OR_RETURN(const std::string name,
                     named ? JsonString(json, "behavior", where) : std::string("Isolated"));
    ASSIGN_OR_RETURN(const Behavior behavior, ReadBehavior(name, where));
    steps_.emplace_back(PunctuationStep{behavior});
    return absl::OkStatus();
  }
  // After ByteLevel the text is no longer characters.
  return absl::InvalidArgumentError(StrCat("unsupported: ", where, ".type: \"", type, "\"",
                                           type == "ByteLevel" ? "; it must be the last" : ""));
}

absl::Status PreTokenizer::AddMetaspace(const nlohmann::json& json, const std::string& where) {
  MetaspaceStep step{std::string(kMetaspace), MetaspaceStep::Prefix::kAlways, true};
  if (!JsonMember(json, "replacement").is_null()) {
    ASSIGN_OR_RETURN(step.replacement, JsonString(json, "replacement", where));
  }
  if (Utf8Length(step.replacement) != 1) {
    return absl::InvalidArgumentError(StrCat(where, ".replacement: not one character"));
  }
  ASSIGN_OR_RETURN(step.split, JsonBool(json, "split", true, where));
  const nlohmann::json& scheme = JsonMember(json, "prepend_scheme");
  // Files of old versions of the library say it with a boolean.
  ASSIGN_OR_RETURN(const bool prefix, JsonBool(json, "add_prefix_space", true, where));
  if (scheme == "never" || (scheme.is_null() && !prefix)) {
    step.prefix = MetaspaceStep::Prefix::kNever;
  } else if (scheme == "first") {
    step.prefix = MetaspaceStep::Prefix::kFirst;
  } else if (!scheme.is_null() && scheme != "always") {
    return absl::InvalidArgumentError(
        StrCat("unsupported: ", where, ".prepend_scheme: not always, first or never"));
  }
  steps_.emplace_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer::Behavior> PreTokenizer::ReadBehavior(const std::string& name,
                                                                  const std::string& where) {
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return absl::InvalidArgumentError(StrCat("unsupported: ", where, ".behavior: \"", name, "\""));
}

absl::Status PreTokenizer::AddByteLevel(const nlohmann::json& json, const std::string& where) {
  ASSIGN_OR_RETURN(const bool prefix, JsonBool(json, "add_prefix_space", true, where));
  ASSIGN_OR_RETURN(const bool use_regex, JsonBool(json, "use_regex", true, where));
  byte_level_ = true;
  if (prefix) steps_.emplace_back(PrefixSpaceStep{});
  if (use_regex) {
    ASSIGN_OR_RETURN(Regex regex, Regex::Compile(kGpt2Pattern));
    steps_.emplace_back(SplitStep{std::move(regex), Behavior::kIsolated, false});
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddSplit(const nlohmann::json& json, const std::string& where) {
  const nlohmann::json& pattern = JsonMember(json, "pattern");
  const nlohmann::json& regex_text = JsonMember(pattern, "Regex");
  const nlohmann::json& literal = JsonMember(pattern, "String");
  if (!regex_text.is_string() && !literal.is_string()) {
    return absl::InvalidArgumentError(
        StrCat(where, ".pattern: neither {\"Regex\": …} nor {\"String\": …}"));
  }
  absl::StatusOr<Regex> regex = regex_text.is_string()
                                    ? Regex::Compile(regex_text.get<std::string>())
                                    : Regex::Literal(literal.get<std::string>());
  if (!regex.ok()) return WithKey(regex.status(), StrCat(where, ".pattern"));
  ASSIGN_OR_RETURN(const std::string name, JsonString(json, "behavior", where));
  ASSIGN_OR_RETURN(const Behavior behavior, ReadBehavior(name, where));
  ASSIGN_OR_RETURN(const bool invert, JsonBool(json, "invert", false, where));
  steps_.emplace_back(SplitStep{*std::move(regex), behavior, invert});
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PreTokenizer::Range>> PreTokenizer::Matches(const SplitStep& step,
                                                                       std::string_view text) {
  ASSIGN_OR_RETURN(const auto matches, step.regex.FindAll(text));
  std::vector<Range> ranges;
  ranges.reserve(matches.size() * 2 + 1);
  size_t previous = 0;
  for (const auto& [begin, end] : matches) {
    if (previous != begin) ranges.push_back({previous, begin, step.invert});
    ranges.push_back({begin, end, !step.invert});
    previous = end;
  }
  if (previous != text.size()) ranges.push_back({previous, text.size(), step.invert});
  return ranges;
}

namespace {

// Calls add(begin, end, match) for each character that is a match, and for what lies between.
template <typename Member, typename Add>
void ForEachCharacterMatch(std::string_view text, const Member& member, const Add& add) {
  size_t previous = 0;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(pos));
    const size_t end = pos + step.bytes;
    if (member(step.code_point)) {
      if (previous != pos) add(previous, pos, false);
      add(pos, end, true);
      previous = end;
    }
    pos = end;
  }
  if (previous != text.size()) add(previous, text.size(), false);
}

}  // namespace

// The rules of Hugging Face's SplitDelimiterBehavior, over alternating matches and gaps.
void PreTokenizer::Emit(const std::vector<Range>& ranges, Behavior behavior, std::string_view text,
                        std::vector<std::string_view>& out) {
  std::vector<Range> merged;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];
    const bool after_match = i > 0 && ranges[i - 1].match;
    bool join = false;
    switch (behavior) {
      case Behavior::kRemoved:
        if (range.match) continue;
        break;
      case Behavior::kIsolated:
        break;
      case Behavior::kContiguous:
        join = i > 0 && range.match == ranges[i - 1].match;
        break;
      case Behavior::kMergedWithPrevious:
        join = i > 0 && range.match && !after_match;
        break;
      case Behavior::kMergedWithNext:
        // A match joins what follows it; of several matches in a row the last one does.
        join = i > 0 && after_match && !range.match;
        break;
    }
    if (join) {
      merged.back().end = range.end;
    } else {
      merged.push_back(range);
    }
  }
  for (const Range& range : merged) {
    if (range.end > range.begin) out.push_back(text.substr(range.begin, range.end - range.begin));
  }
}

void PreTokenizer::Metaspace(const MetaspaceStep& step, std::string_view text, bool first,
                             Words& words, std::vector<std::string_view>& out) {
  using Prefix = MetaspaceStep::Prefix;
  std::string& replaced = words.owned.emplace_back();
  const bool prefix = step.prefix == Prefix::kAlways || (step.prefix == Prefix::kFirst && first);
  if (prefix && !text.starts_with(' ') && !text.starts_with(step.replacement)) {
    replaced = step.replacement;
  }
  for (const char c : text) {
    if (c == ' ') {
      replaced.append(step.replacement);
    } else {
      replaced.push_back(c);
    }
  }
  const std::string_view all = replaced;
  if (!step.split) {
    out.push_back(all);
    return;
  }
  // A word begins at each replacement.
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find(step.replacement, begin + 1), all.size());
    out.push_back(all.substr(begin, end - begin));
    begin = end;
  }
}

absl::Status PreTokenizer::Apply(const Step& step, std::string_view word, bool first, Words& words,
                                 std::vector<std::string_view>& out) {
  std::vector<Range> ranges;
  const auto add = [&](size_t begin, size_t end, bool match) {
    ranges.push_back({begin, end, match});
  };
  if (const auto* split = std::get_if<SplitStep>(&step)) {
    ASSIGN_OR_RETURN(ranges, Matches(*split, word));
    Emit(ranges, split->behavior, word, out);
  } else if (const auto* digits = std::get_if<DigitsStep>(&step)) {
    ForEachCharacterMatch(word, IsNumeric, add);
    Emit(ranges, digits->individual ? Behavior::kIsolated : Behavior::kContiguous, word, out);
  } else if (const auto* punctuation = std::get_if<PunctuationStep>(&step)) {
    ForEachCharacterMatch(word, IsPunctuation, add);
    Emit(ranges, punctuation->behavior, word, out);
  } else if (const auto* whitespace = std::get_if<WhitespaceStep>(&step)) {
    const bool apart = whitespace->words_apart;
    while (!(word = word.substr(LeadingWhiteSpaceBytes(word))).empty()) {
      const bool letters = IsWordCharacter(NextUtf8(word).code_point);
      const size_t bytes = RunBytes(word, [&](char32_t c) {
        return !IsWhiteSpace(c) && (!apart || IsWordCharacter(c) == letters);
      });
      out.push_back(word.substr(0, bytes));
      word.remove_prefix(bytes);
    }
  } else if (const auto* metaspace = std::get_if<MetaspaceStep>(&step)) {
    Metaspace(*metaspace, word, first, words, out);
  } else if (word.front() == ' ') {
    out.push_back(word);
  } else {
    out.push_back(words.owned.emplace_back(StrCat(" ", word)));
  }
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer::Words> PreTokenizer::Split(std::string_view text, bool first) const {
  Words result;
  if (!text.empty()) result.words.push_back(text);
  for (const Step& step : steps_) {
    std::vector<std::string_view> next;
    bool first_word = first;
    for (const std::string_view word : result.words) {
      RETURN_IF_ERROR(Apply(step, word, first_word, result, next));
      first_word = false;
    }
    result.words = std::move(next);
  }
  return result;
}

}  // namespace trireme
