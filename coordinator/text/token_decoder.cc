#include "coordinator/text/token_decoder.h"

#include <cstdint>
#include <optional>

#include "base/status_macros.h"
#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/byte_pieces.h"
#include "coordinator/text/json_fields.h"
#include "coordinator/text/metaspace.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

constexpr size_t kStepsMax = 16;

void AppendReplaced(std::string_view text, std::string_view pattern, std::string_view content,
                    std::string& out) {
  size_t done = 0;
  for (size_t pos; (pos = text.find(pattern, done)) != std::string_view::npos;) {
    out.append(text.substr(done, pos - done)).append(content);
    done = pos + pattern.size();
  }
  out.append(text.substr(done));
}

}  // namespace

TokenDecoder TokenDecoder::ByteLevel() {
  TokenDecoder result;
  result.byte_level_ = true;
  return result;
}

TokenDecoder TokenDecoder::SentencePiece(size_t strip_spaces) {
  TokenDecoder result;
  result.replacements_.emplace_back(kMetaspace, " ");
  result.byte_fallback_ = true;
  result.strip_spaces_ = strip_spaces;
  return result;
}

absl::StatusOr<TokenDecoder> TokenDecoder::Parse(const nlohmann::json& json) {
  TokenDecoder result;
  if (JsonType(json) != "Sequence") {
    RETURN_IF_ERROR(result.AddStep(json, "decoder"));
    // A step by itself works on tokens, whose texts are joined with spaces in some cases.
    if (result.byte_level_ || result.first_differs()) return result;
    return absl::InvalidArgumentError(
        StrCat("unsupported: decoder: type \"", JsonType(json), "\" alone"));
  }
  const nlohmann::json& list = JsonMember(json, "decoders");
  if (!list.is_array() || list.empty() || list.size() > kStepsMax) {
    return absl::InvalidArgumentError(StrCat("decoder.decoders: not a list of 1 to ", kStepsMax));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = StrCat("decoder.decoders[", i, "]");
    if (i > 0 && (result.byte_level_ || result.first_differs())) {
      return absl::InvalidArgumentError(StrCat("unsupported: ", where, ": after a whole decoder"));
    }
    RETURN_IF_ERROR(result.AddStep(list[i], where));
  }
  return result;
}

absl::Status TokenDecoder::AddStep(const nlohmann::json& json, const std::string& where) {
  const std::string type = JsonType(json);
  const auto unsupported = [&](std::string_view why) {
    return absl::InvalidArgumentError(StrCat("unsupported: ", where, ": type \"", type, "\"", why));
  };
  const bool early = !byte_fallback_ && !fused_;
  if (type == "ByteLevel") {
    byte_level_ = true;
    return replacements_.empty() && early ? absl::OkStatus() : unsupported(" after others");
  }
  if (type == "Metaspace") {
    if (!replacements_.empty() || !early) return unsupported(" after others");
    std::string symbol(kMetaspace);
    if (!JsonMember(json, "replacement").is_null()) {
      ASSIGN_OR_RETURN(symbol, JsonString(json, "replacement", where));
    }
    if (Utf8Length(symbol) != 1) return unsupported(": replacement is not one character");
    const nlohmann::json& scheme = JsonMember(json, "prepend_scheme");
    ASSIGN_OR_RETURN(const bool prefix, JsonBool(json, "add_prefix_space", true, where));
    const bool never = scheme == "never" || (scheme.is_null() && !prefix);
    replacements_.emplace_back(symbol, " ");
    first_removed_ = never ? "" : symbol;
    fused_ = true;
    return absl::OkStatus();
  }
  if (type == "Replace" && early) {
    ASSIGN_OR_RETURN(std::string text,
                     JsonString(JsonMember(json, "pattern"), "String", where + ".pattern"));
    ASSIGN_OR_RETURN(std::string content, JsonString(json, "content", where));
    if (text.empty()) return unsupported(" of an empty pattern");
    replacements_.emplace_back(std::move(text), std::move(content));
    return absl::OkStatus();
  }
  if (type == "ByteFallback" && early) {
    byte_fallback_ = true;
    return absl::OkStatus();
  }
  if (type == "Fuse") {
    fused_ = true;
    return absl::OkStatus();
  }
  if (type == "Strip" && fused_ && JsonMember(json, "content") == " " &&
      JsonMember(json, "stop") == 0 && JsonMember(json, "start").is_number_unsigned()) {
    strip_spaces_ += JsonMember(json, "start").get<size_t>();
    return absl::OkStatus();
  }
  return unsupported(" here");
}

void TokenDecoder::Append(std::string_view token, std::string& bytes) const {
  if (byte_level_) {
    const std::optional<std::string> decoded = SymbolsToBytes(token);
    bytes.append(decoded.has_value() ? std::string_view(*decoded) : token);
    return;
  }
  if (replacements_.size() == 1 && token.size() != 6) {  // the common case, without a copy
    AppendReplaced(token, replacements_[0].first, replacements_[0].second, bytes);
    return;
  }
  std::string text(token);
  for (const auto& [pattern, content] : replacements_) {
    std::string replaced;
    AppendReplaced(text, pattern, content, replaced);
    text = std::move(replaced);
  }
  const std::optional<uint8_t> byte =
      byte_fallback_ ? BytePieceValue(text) : std::optional<uint8_t>();
  if (byte.has_value()) {
    bytes.push_back(static_cast<char>(*byte));
  } else {
    bytes.append(text);
  }
}

void TokenDecoder::AppendFirst(std::string_view token, std::string& bytes) const {
  AppendReplaced(token, first_removed_, "", bytes);
}

}  // namespace trireme
