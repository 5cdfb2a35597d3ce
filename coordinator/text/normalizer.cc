#include "coordinator/text/normalizer.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "base/status_macros.h"
#include "coordinator/text/json_fields.h"
#include "coordinator/text/metaspace.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/unicode.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

constexpr size_t kStepsMax = 64;
constexpr int kDepthMax = 4;

std::string Replaced(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  size_t done = 0;
  for (size_t pos; (pos = text.find(pattern, done)) != std::string_view::npos;) {
    out.append(text.substr(done, pos - done)).append(content);
    done = pos + pattern.size();
  }
  out.append(text.substr(done));
  return out;
}

template <typename Each>
std::string MapCharacters(std::string_view text, const Each& each) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    each(step.code_point, out);
    text.remove_prefix(step.bytes);
  }
  return out;
}

std::string WithMergedSpaces(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  bool between = true;
  for (const char c : text) {
    if (between && c != ' ') out.append(kMetaspace);
    between = c == ' ';
    if (!between) out.push_back(c);
  }
  return out;
}

std::string Stripped(std::string_view text, bool left, bool right) {
  if (left) text.remove_prefix(LeadingWhiteSpaceBytes(text));
  if (right) text = text.substr(0, TrailingWhiteSpaceBegin(text));
  return std::string(text);
}

}  // namespace

absl::StatusOr<Normalizer> Normalizer::Parse(const nlohmann::json& json) {
  Normalizer result;
  RETURN_IF_ERROR(result.AddStep(json, "normalizer", 0));
  return result;
}

Normalizer Normalizer::Spaces(bool prefix) {
  Normalizer result;
  if (prefix) result.steps_.emplace_back(Prepend{" "});
  result.steps_.emplace_back(ReplaceText{" ", std::string(kMetaspace)});
  return result;
}

Normalizer Normalizer::MergedSpaces() {
  Normalizer result;
  result.steps_.emplace_back(MergeSpaces{});
  return result;
}

Normalizer Normalizer::After(Charsmap charsmap) && {
  steps_.emplace(steps_.begin(), std::move(charsmap));
  return std::move(*this);
}

absl::Status Normalizer::AddStep(const nlohmann::json& json, const std::string& where, int depth) {
  if (json.is_null()) return absl::OkStatus();
  const std::string type = JsonType(json);
  const nlohmann::json& list = JsonMember(json, "normalizers");
  if (steps_.size() >= kStepsMax) {
    return absl::InvalidArgumentError(StrCat(where, ": more than ", kStepsMax, " steps"));
  }
  if (type == "NFC") {
    steps_.emplace_back(NormalForm::kNfc);
  } else if (type == "NFD") {
    steps_.emplace_back(NormalForm::kNfd);
  } else if (type == "NFKC") {
    steps_.emplace_back(NormalForm::kNfkc);
  } else if (type == "NFKD") {
    steps_.emplace_back(NormalForm::kNfkd);
  } else if (type == "Lowercase") {
    steps_.emplace_back(Lowercase{});
  } else if (type == "StripAccents") {
    steps_.emplace_back(StripAccents{});
  } else if (type == "Strip") {
    ASSIGN_OR_RETURN(const bool left, JsonBool(json, "strip_left", true, where));
    ASSIGN_OR_RETURN(const bool right, JsonBool(json, "strip_right", true, where));
    steps_.emplace_back(Strip{left, right});
  } else if (type == "Prepend") {
    ASSIGN_OR_RETURN(std::string text, JsonString(json, "prepend", where));
    steps_.emplace_back(Prepend{std::move(text)});
  } else if (type == "Replace") {
    return AddReplace(json, where);
  } else if (type == "Precompiled") {
    return AddPrecompiled(json, where);
  } else if (type == "Sequence" && list.is_array() && depth < kDepthMax) {
    for (size_t i = 0; i < list.size(); ++i) {
      RETURN_IF_ERROR(AddStep(list[i], StrCat(where, ".normalizers[", i, "]"), depth + 1));
    }
  } else {
    return absl::InvalidArgumentError(StrCat("unsupported: ", where, ": type \"", type, "\""));
  }
  return absl::OkStatus();
}

absl::Status Normalizer::AddReplace(const nlohmann::json& json, const std::string& where) {
  const nlohmann::json& pattern = JsonMember(json, "pattern");
  ASSIGN_OR_RETURN(std::string content, JsonString(json, "content", where));
  if (JsonMember(pattern, "Regex").is_string()) {
    const auto& text = pattern["Regex"].get_ref<const std::string&>();
    ASSIGN_OR_RETURN(Regex regex, Regex::Compile(text));
    steps_.emplace_back(ReplaceRegex{std::move(regex), std::move(content)});
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(std::string text, JsonString(pattern, "String", where + ".pattern"));
  if (text.empty()) {
    return absl::InvalidArgumentError(StrCat("unsupported: ", where, ".pattern: empty"));
  }
  steps_.emplace_back(ReplaceText{std::move(text), std::move(content)});
  return absl::OkStatus();
}

absl::Status Normalizer::AddPrecompiled(const nlohmann::json& json, const std::string& where) {
  const nlohmann::json& encoded = JsonMember(json, "precompiled_charsmap");
  if (encoded.is_null() || encoded == "") return absl::OkStatus();  // no rules
  ASSIGN_OR_RETURN(const std::string text, JsonString(json, "precompiled_charsmap", where));
  std::string blob;
  if (!absl::Base64Unescape(text, &blob)) {
    return absl::InvalidArgumentError(StrCat(where, ".precompiled_charsmap: not base64"));
  }
  absl::StatusOr<Charsmap> charsmap = Charsmap::Create(blob);
  if (!charsmap.ok()) {
    return absl::InvalidArgumentError(
        StrCat(where, ".precompiled_charsmap: ", charsmap.status().message()));
  }
  steps_.emplace_back(*std::move(charsmap));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Normalizer::Apply(std::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) {
    if (const auto* form = std::get_if<NormalForm>(&step)) {
      result = Normalize(result, *form);
    } else if (const auto* prepend = std::get_if<Prepend>(&step)) {
      if (!result.empty()) result.insert(0, prepend->text);
    } else if (const auto* literal = std::get_if<ReplaceText>(&step)) {
      result = Replaced(result, literal->pattern, literal->content);
    } else if (const auto* regex = std::get_if<ReplaceRegex>(&step)) {
      ASSIGN_OR_RETURN(const auto matches, regex->pattern.FindAll(result));
      std::string out;
      size_t done = 0;
      for (const auto& [begin, end] : matches) {
        out.append(result, done, begin - done).append(regex->content);
        done = end;
      }
      out.append(result, done);
      result = std::move(out);
    } else if (std::holds_alternative<Lowercase>(step)) {
      result = MapCharacters(result, AppendLowercase);
    } else if (std::holds_alternative<StripAccents>(step)) {
      result = MapCharacters(result, [](char32_t c, std::string& out) {
        if (!IsMark(c)) AppendUtf8(c, out);
      });
    } else if (const auto* strip = std::get_if<Strip>(&step)) {
      result = Stripped(result, strip->left, strip->right);
    } else if (std::holds_alternative<MergeSpaces>(step)) {
      result = WithMergedSpaces(result);
    } else {
      result = std::get<Charsmap>(step).Apply(result);
    }
  }
  return result;
}

}  // namespace trireme
