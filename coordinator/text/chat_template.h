#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace trireme {

class GgufFile;
struct GgufTokens;

// What a chat template renders. JSON keeps the order of keys, which templates show.
struct ChatInput {
  // A list of {"role": …, "content": …, …}, as in the OpenAI API.
  nlohmann::ordered_json messages;
  // A list of tools as in the OpenAI API, or null.
  nlohmann::ordered_json tools;
  // Further variables the template may look at ("enable_thinking", "documents"): an object or null.
  nlohmann::ordered_json extra;
  // Ends the text where the assistant's answer begins.
  bool add_generation_prompt = true;
  // What strftime_now shows, in local time; seconds since 1970.
  int64_t now_unix_s = 0;
};

// A model's chat template: Jinja as transformers' apply_chat_template runs it (trim_blocks,
// lstrip_blocks, loop controls, immutable sandbox), rendered by an interpreter of our own. What the
// interpreter lacks is an "unsupported: …" error. Templates come with models and are not trusted:
// steps, memory, output and recursion are bounded, and nothing outside of the input is reachable.
//
// Immutable after loading: Render is safe to call from several threads.
class ChatTemplate {
 public:
  // Reads a model's directory: chat_template.jinja if there is one, else "chat_template" of
  // tokenizer_config.json, a string or a list of {"name", "template"}; bos_token and eos_token are
  // from tokenizer_config.json. NotFound if the model has no template.
  static absl::StatusOr<ChatTemplate> Load(const std::filesystem::path& path);

  // "tokenizer.chat_template"; bos_token and eos_token by their ids.
  static absl::StatusOr<ChatTemplate> FromGguf(const GgufFile& file, const GgufTokens& tokens);

  // `config` is the text of a tokenizer_config.json; `name` stands for the file in errors.
  static absl::StatusOr<ChatTemplate> FromConfig(std::string_view config, std::string_view name);

  static absl::StatusOr<ChatTemplate> FromSource(std::string_view source, std::string bos_token,
                                                 std::string eos_token);

  // InvalidArgument for an error of the template, a raise_exception of it included; the message
  // begins with "chat template, line N: ".
  absl::StatusOr<std::string> Render(const ChatInput& input) const;

 private:
  struct Parsed;
  explicit ChatTemplate(std::shared_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}

  std::shared_ptr<const Parsed> parsed_;
};

}  // namespace trireme
