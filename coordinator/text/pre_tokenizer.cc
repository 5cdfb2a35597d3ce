#include "coordinator/text/pre_tokenizer.h"

#include <optional>
#include <utility>

#include "base/status_macros.h"
#include "coordinator/text/json_fields.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/unicode.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

constexpr size_t kStepsMax = 32;

// What ByteLevel with use_regex splits by: the pattern of GPT-2.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

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

absl::Status PreTokenizer::AddStep(const nlohmann::json& json, const std::string& where,
                                   bool last) {
  const std::string type = JsonType(json);
  // Only byte-level vocabularies; after ByteLevel the text is no longer characters.
  if ((type == "ByteLevel") != last) {
    return absl::InvalidArgumentError(StrCat("unsupported: ", where, ".type: \"", type,
                                             "\"; only ByteLevel can be, and must be, last"));
  }
  if (type == "ByteLevel") return AddByteLevel(json, where);
  if (type == "Split") return AddSplit(json, where);
  if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual, JsonBool(json, "individual_digits", false, where));
    steps_.emplace_back(DigitsStep{individual});
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(StrCat("unsupported: ", where, ".type: \"", type, "\""));
}

absl::Status PreTokenizer::AddByteLevel(const nlohmann::json& json, const std::string& where) {
  ASSIGN_OR_RETURN(const bool prefix, JsonBool(json, "add_prefix_space", true, where));
  ASSIGN_OR_RETURN(const bool use_regex, JsonBool(json, "use_regex", true, where));
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
  std::optional<Behavior> behavior;
  if (name == "Removed") behavior = Behavior::kRemoved;
  if (name == "Isolated") behavior = Behavior::kIsolated;
  if (name == "MergedWithPrevious") behavior = Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") behavior = Behavior::kMergedWithNext;
  if (name == "Contiguous") behavior = Behavior::kContiguous;
  if (!behavior.has_value()) {
    return absl::InvalidArgumentError(StrCat("unsupported: ", where, ".behavior: \"", name, "\""));
  }
  ASSIGN_OR_RETURN(const bool invert, JsonBool(json, "invert", false, where));
  steps_.emplace_back(SplitStep{*std::move(regex), *behavior, invert});
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

std::vector<PreTokenizer::Range> PreTokenizer::Digits(std::string_view text) {
  std::vector<Range> ranges;
  size_t previous = 0;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(pos));
    if (IsNumeric(step.code_point)) {
      if (previous != pos) ranges.push_back({previous, pos, false});
      ranges.push_back({pos, pos + step.bytes, true});
      previous = pos + step.bytes;
    }
    pos += step.bytes;
  }
  if (previous != text.size()) ranges.push_back({previous, text.size(), false});
  return ranges;
}

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

absl::StatusOr<PreTokenizer::Words> PreTokenizer::Split(std::string_view text) const {
  Words result;
  if (!text.empty()) result.words.push_back(text);
  for (const Step& step : steps_) {
    std::vector<std::string_view> next;
    for (const std::string_view word : result.words) {
      if (const auto* split = std::get_if<SplitStep>(&step)) {
        ASSIGN_OR_RETURN(const std::vector<Range> ranges, Matches(*split, word));
        Emit(ranges, split->behavior, word, next);
      } else if (const auto* digits = std::get_if<DigitsStep>(&step)) {
        Emit(Digits(word), digits->individual ? Behavior::kIsolated : Behavior::kContiguous, word,
             next);
      } else if (word.front() == ' ') {
        next.push_back(word);
      } else {
        next.push_back(result.owned.emplace_back(StrCat(" ", word)));
      }
    }
    result.words = std::move(next);
  }
  return result;
}

}  // namespace trireme
