// libFuzzer: input is a chat template. Nothing may crash, overflow the stack or run without end.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "coordinator/text/chat_template.h"
#include "coordinator/text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const trireme::ChatInput* const kInput = [] {
    auto* input = new trireme::ChatInput;
    input->messages = nlohmann::ordered_json::parse(
        R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi é"},
            {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f",
             "arguments": {"a": [1, 2.5, true]}}}]}, {"role": "tool", "content": "{}"}])");
    input->tools = nlohmann::ordered_json::parse(R"([{"type": "function", "function": {"name": "f",
        "parameters": {"type": "object", "properties": {"a": {"type": "array"}}}}}])");
    return input;
  }();
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = trireme::ChatTemplate::FromSource(source, "<s>", "</s>");
  if (!parsed.ok()) return 0;
  const auto text = parsed->Render(*kInput);
  if (text.ok() && !trireme::IsValidUtf8(*text)) std::abort();
  return 0;
}
