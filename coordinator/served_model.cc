#include "coordinator/served_model.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/gateway/gguf_sampling.h"
#include "coordinator/text/gguf_tokens.h"
#include "parallel/gguf_config.h"
#include "parallel/gguf_file.h"

namespace trireme {
namespace {

// A model may have rows for tokens that no one uses, but not fewer rows than tokens; and a
// tokenizer of less than half the rows belongs to another model.
absl::Status CheckVocabulary(const std::filesystem::path& path, int64_t tokenizer, int64_t model) {
  if (tokenizer <= model && 2 * tokenizer >= model) return absl::OkStatus();
  if (IsGgufPath(path)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": its tokenizer has ", tokenizer,
                                                   " tokens, but \"token_embd.weight\" ", model,
                                                   " rows: they are not of one model"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      (path / "tokenizer.json").string(), " has ", tokenizer, " tokens, but ",
      (path / "config.json").string(), " says vocab_size ", model, ": they are not of one model"));
}

// The directory's name, or the file's without its ending.
std::string ModelName(const std::filesystem::path& model) {
  if (IsGgufPath(model)) return model.stem().string();
  const std::filesystem::path path = std::filesystem::absolute(model).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

}  // namespace

absl::StatusOr<ServedModel> ServedModel::Load(const std::filesystem::path& path, std::string name) {
  std::optional<GgufFile> gguf;
  if (IsGgufPath(path)) {
    ASSIGN_OR_RETURN(gguf, GgufFile::Open(path));
  }
  ASSIGN_OR_RETURN(ModelConfig config, gguf ? GgufModelConfig(*gguf) : ModelConfig::Load(path));
  GgufTokens tokens;
  if (gguf) {
    ASSIGN_OR_RETURN(tokens, GgufTokens::Read(*gguf));
  }
  ASSIGN_OR_RETURN(Tokenizer tokenizer,
                   gguf ? Tokenizer::FromGguf(*gguf, tokens) : Tokenizer::Load(path));
  RETURN_IF_ERROR(CheckVocabulary(path, tokenizer.vocab_size(), config.vocab_size));
  const auto vocab_size = static_cast<uint32_t>(config.vocab_size);
  ASSIGN_OR_RETURN(SamplingDefaults sampling, gguf ? GgufSamplingDefaults(*gguf, tokens)
                                                   : SamplingDefaults::Load(path, vocab_size));
  ServedModel model{.name = name.empty() ? ModelName(path) : std::move(name),
                    .config = std::move(config),
                    .tokenizer = std::move(tokenizer),
                    .chat_template = std::nullopt,
                    .no_chat_template_reason = "",
                    .sampling = std::move(sampling)};
  absl::StatusOr<ChatTemplate> chat_template =
      gguf ? ChatTemplate::FromGguf(*gguf, tokens) : ChatTemplate::Load(path);
  if (chat_template.ok()) {
    model.chat_template = *std::move(chat_template);
  } else {
    model.no_chat_template_reason = std::string(chat_template.status().message());
  }
  return model;
}

}  // namespace trireme
