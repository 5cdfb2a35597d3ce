#include "coordinator/text/gguf_tokens.h"

#include <algorithm>
#include <array>

#include "base/status_macros.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/vocabulary.h"

namespace trireme {
namespace {

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";

// Tokens that end an answer wherever they occur, whatever the metadata say.
constexpr std::array<std::string_view, 32> kEndTexts = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // Where an infilled text is over: padding, the next repository, the next file.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
};

// Control tokens that end nothing: the parts of an infilling prompt.
constexpr std::array<std::string_view, 24> kControlTexts = {
    "<|fim_prefix|>", "<fim-prefix>",    "<fim_prefix>",    "<｜fim▁begin｜>", "<PRE>",
    "▁<PRE>",         "<|code_prefix|>", "<|prefix|>",      "<|fim_suffix|>",  "<fim-suffix>",
    "<fim_suffix>",   "<｜fim▁hole｜>",  "<SUF>",           "▁<SUF>",          "<|code_suffix|>",
    "<|suffix|>",     "<|fim_middle|>",  "<fim-middle>",    "<fim_middle>",    "<｜fim▁end｜>",
    "<MID>",          "▁<MID>",          "<|code_middle|>", "<|middle|>",
};

// Tokens of the harmony format, which an answer shows.
constexpr std::array<std::string_view, 4> kVisibleTexts = {"<|channel|>", "<|message|>",
                                                           "<|start|>", "<|constrain|>"};

// Texts of the three lists begin with one of these and are no longer than this.
constexpr std::array<std::string_view, 4> kBeginnings = {"<", "[", "_<", "▁<"};
constexpr size_t kTextBytesMax = 32;

template <size_t N>
bool IsIn(const std::array<std::string_view, N>& list, std::string_view text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

}  // namespace

absl::StatusOr<GgufTokens> GgufTokens::Read(const GgufFile& file) {
  GgufTokens tokens;
  ASSIGN_OR_RETURN(tokens.texts, file.Strings(kTokensKey));
  if (tokens.texts.empty() || tokens.texts.size() > size_t{Vocabulary::kIdMax} + 1) {
    return absl::InvalidArgumentError(StrCat(file.origin(), ": ", kTokensKey, " has ",
                                             tokens.texts.size(), " tokens; 1 to ",
                                             size_t{Vocabulary::kIdMax} + 1, " are supported"));
  }
  RETURN_IF_ERROR(tokens.ReadTypes(file));
  RETURN_IF_ERROR(tokens.ReadIds(file));
  tokens.RecogniseTexts();
  return tokens;
}

absl::Status GgufTokens::ReadTypes(const GgufFile& file) {
  types.assign(texts.size(), GgufTokenType::kNormal);
  if (!file.Has(kTypesKey)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<int64_t> numbers, file.Wholes(kTypesKey));
  if (numbers.size() != texts.size()) {
    return absl::InvalidArgumentError(StrCat(file.origin(), ": ", kTypesKey, " has ",
                                             numbers.size(), " entries, ", kTokensKey, " has ",
                                             texts.size()));
  }
  for (size_t i = 0; i < numbers.size(); ++i) {
    const bool known = numbers[i] >= 0 && numbers[i] <= static_cast<int64_t>(GgufTokenType::kByte);
    types[i] = known ? static_cast<GgufTokenType>(numbers[i]) : GgufTokenType::kUndefined;
  }
  return absl::OkStatus();
}

absl::Status GgufTokens::ReadIds(const GgufFile& file) {
  ASSIGN_OR_RETURN(const std::string_view model, file.String("tokenizer.ggml.model", ""));
  const auto max = static_cast<int64_t>(texts.size()) - 1;
  const auto read = [&](std::string_view name, int64_t fallback) -> absl::StatusOr<int32_t> {
    ASSIGN_OR_RETURN(const int64_t id, file.Whole(StrCat("tokenizer.ggml.", name, "_token_id"), 0,
                                                  max, fallback <= max ? fallback : -1));
    return static_cast<int32_t>(id);
  };
  // What files without these keys meant.
  ASSIGN_OR_RETURN(bos_id, read("bos", model == "llama" ? 1 : -1));
  ASSIGN_OR_RETURN(eos_id, read("eos", model == "llama" ? 2 : model == "t5" ? 1 : -1));
  ASSIGN_OR_RETURN(unknown_id, read("unknown", model == "t5" ? 2 : -1));
  for (const char* name : {"eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"}) {
    ASSIGN_OR_RETURN(const int32_t id, read(name, -1));
    if (id >= 0) end_ids.push_back(id);
  }
  if (eos_id >= 0) end_ids.push_back(eos_id);
  return absl::OkStatus();
}

void GgufTokens::RecogniseTexts() {
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string_view text = texts[i];
    if (text.size() > kTextBytesMax ||
        std::none_of(kBeginnings.begin(), kBeginnings.end(),
                     [&](std::string_view beginning) { return text.starts_with(beginning); })) {
      continue;
    }
    // An HTML tag in many vocabularies, the end in others.
    const bool end_tag = text == "</s>" && types[i] == GgufTokenType::kControl;
    if (end_tag || IsIn(kEndTexts, text)) {
      end_ids.push_back(static_cast<int32_t>(i));
      types[i] = GgufTokenType::kControl;
    } else if (IsIn(kControlTexts, text)) {
      types[i] = GgufTokenType::kControl;
    } else if (IsIn(kVisibleTexts, text)) {
      types[i] = GgufTokenType::kUserDefined;
    }
  }
  std::sort(end_ids.begin(), end_ids.end());
  end_ids.erase(std::unique(end_ids.begin(), end_ids.end()), end_ids.end());
  const auto find = [&](std::string_view text) {
    return std::find_if(end_ids.begin(), end_ids.end(),
                        [&](int32_t id) { return texts[static_cast<size_t>(id)] == text; });
  };
  const auto has = [&](std::string_view text) { return find(text) != end_ids.end(); };
  // It ends one message of several in harmony, and there "<|return|>" ends the answer.
  if (has("<|end|>") && ((has("<|return|>") && (has("<|call|>") || has("<|calls|>"))) ||
                         ((has("<|call|>") || has("<|calls|>")) && has("<|flush|>")))) {
    TypeOf(*find("<|end|>")) = GgufTokenType::kUserDefined;
    end_ids.erase(find("<|end|>"));
  }
}

}  // namespace trireme
