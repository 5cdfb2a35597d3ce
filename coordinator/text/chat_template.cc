#include "coordinator/text/chat_template.h"

#include <optional>
#include <utility>

#include "base/file.h"
#include "base/status_macros.h"
#include "coordinator/text/gguf_tokens.h"
#include "coordinator/text/jinja/interpreter.h"
#include "coordinator/text/jinja/parser.h"
#include "coordinator/text/json_fields.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/utf8.h"
#include "parallel/gguf_file.h"

namespace trireme {
namespace {

using nlohmann::json;

constexpr size_t kConfigBytesMax = 16 << 20;
constexpr size_t kSourceBytesMax = 1 << 20;

absl::Status WithPrefix(const absl::Status& status, std::string_view prefix) {
  return absl::Status(status.code(), StrCat(prefix, status.message()));
}

// A special token of tokenizer_config.json: a string, {"content": string}, or missing.
std::string TokenText(const json& config, std::string_view key) {
  const json& value = JsonMember(config, key);
  const json& text = value.is_object() ? JsonMember(value, "content") : value;
  return text.is_string() ? text.get<std::string>() : "";
}

// The template of the config; of several, "default", or "tool_use" where that is the only one.
std::optional<std::string> TemplateText(const json& config) {
  const json& value = JsonMember(config, "chat_template");
  if (value.is_string()) return value.get<std::string>();
  std::optional<std::string> found;
  if (!value.is_array()) return found;
  for (const json& entry : value) {
    const json& name = JsonMember(entry, "name");
    const json& text = JsonMember(entry, "template");
    if (!text.is_string()) continue;
    if (name == "default" || !found.has_value()) found = text.get<std::string>();
  }
  return found;
}

absl::StatusOr<json> ParseConfig(std::string_view text, std::string_view name) {
  json config = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (config.is_discarded() || !config.is_object()) {
    return absl::InvalidArgumentError(StrCat(name, ": not a JSON object"));
  }
  return config;
}

}  // namespace

struct ChatTemplate::Parsed {
  jinja::Body body;
  std::string bos_token;
  std::string eos_token;
};

absl::StatusOr<ChatTemplate> ChatTemplate::FromSource(std::string_view source,
                                                      std::string bos_token,
                                                      std::string eos_token) {
  if (source.size() > kSourceBytesMax || !IsValidUtf8(source)) {
    return absl::InvalidArgumentError("chat template: too large, or not UTF-8");
  }
  absl::StatusOr<jinja::Body> body = jinja::Parse(source);
  if (!body.ok()) return WithPrefix(body.status(), "chat template, ");
  return ChatTemplate(std::make_shared<const Parsed>(
      Parsed{*std::move(body), std::move(bos_token), std::move(eos_token)}));
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromConfig(std::string_view text,
                                                      std::string_view name) {
  ASSIGN_OR_RETURN(const json config, ParseConfig(text, name));
  const std::optional<std::string> source = TemplateText(config);
  if (!source.has_value()) return absl::NotFoundError(StrCat(name, ": no chat_template"));
  absl::StatusOr<ChatTemplate> result =
      FromSource(*source, TokenText(config, "bos_token"), TokenText(config, "eos_token"));
  if (!result.ok()) return WithPrefix(result.status(), StrCat(name, ": "));
  return result;
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromGguf(const GgufFile& file,
                                                    const GgufTokens& tokens) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  if (!file.Has(kKey)) return absl::NotFoundError(StrCat(file.origin(), ": no ", kKey));
  ASSIGN_OR_RETURN(const std::string_view source, file.String(kKey));
  absl::StatusOr<ChatTemplate> result =
      FromSource(source, tokens.Text(tokens.bos_id), tokens.Text(tokens.eos_id));
  if (!result.ok()) return WithPrefix(result.status(), StrCat(file.origin(), ": "));
  return result;
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::filesystem::path& path) {
  const std::filesystem::path config_path = path / "tokenizer_config.json";
  const std::filesystem::path template_path = path / "chat_template.jinja";
  absl::StatusOr<std::string> source = ReadFile(template_path, kSourceBytesMax);
  absl::StatusOr<std::string> config_text = ReadFile(config_path, kConfigBytesMax);
  if (!source.ok()) {
    if (!absl::IsNotFound(source.status())) return source.status();
    RETURN_IF_ERROR(config_text.status());
    return FromConfig(*config_text, config_path.string());
  }
  json config = json::object();
  if (config_text.ok()) {
    ASSIGN_OR_RETURN(config, ParseConfig(*config_text, config_path.string()));
  }
  absl::StatusOr<ChatTemplate> result =
      FromSource(*source, TokenText(config, "bos_token"), TokenText(config, "eos_token"));
  if (!result.ok()) return WithPrefix(result.status(), StrCat(template_path.string(), ": "));
  return result;
}

absl::StatusOr<std::string> ChatTemplate::Render(const ChatInput& input) const {
  jinja::Interpreter interpreter(jinja::Interpreter::Limits{}, input.now_unix_s);
  const auto set = [&](std::string name, const nlohmann::ordered_json& value) -> absl::Status {
    absl::StatusOr<jinja::Value> converted = jinja::FromJson(interpreter.budget(), value);
    if (!converted.ok()) return WithPrefix(converted.status(), StrCat("chat ", name, ": "));
    interpreter.SetVariable(std::move(name), *std::move(converted));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(set("messages", input.messages));
  RETURN_IF_ERROR(set("tools", input.tools));
  // As transformers calls it: always there, even if nothing was given.
  RETURN_IF_ERROR(set("documents", nullptr));
  RETURN_IF_ERROR(set("add_generation_prompt", input.add_generation_prompt));
  RETURN_IF_ERROR(set("bos_token", parsed_->bos_token));
  RETURN_IF_ERROR(set("eos_token", parsed_->eos_token));
  if (input.extra.is_object()) {
    for (auto it = input.extra.begin(); it != input.extra.end(); ++it) {
      RETURN_IF_ERROR(set(it.key(), it.value()));
    }
  } else if (!input.extra.is_null()) {
    return absl::InvalidArgumentError("chat template variables: not a JSON object");
  }
  absl::StatusOr<std::string> text = interpreter.Render(parsed_->body);
  if (!text.ok()) return WithPrefix(text.status(), "chat template, ");
  return text;
}

}  // namespace trireme
