#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/gateway/sampling.h"
#include "coordinator/text/chat_template.h"
#include "coordinator/text/tokenizer.h"
#include "parallel/model_config.h"

namespace trireme {

// What the coordinator knows of the model: everything in its directory or file but the weights.
// Immutable after loading, so thread safe.
struct ServedModel {
  std::string name;  // as clients see it
  ModelConfig config;
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
  std::string no_chat_template_reason;  // if there is none
  SamplingDefaults sampling;

  // Reads a directory's config.json, tokenizer.json and, if they are there, generation_config.json
  // and the chat template; or all of it out of a .gguf file. An empty name stands for that of the
  // directory or file. The error names the file. A chat template that cannot be used is no error:
  // the model then has none.
  static absl::StatusOr<ServedModel> Load(const std::filesystem::path& path, std::string name);

  uint32_t vocab_size() const { return static_cast<uint32_t>(config.vocab_size); }
};

}  // namespace trireme
