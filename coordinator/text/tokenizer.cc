#include "coordinator/text/tokenizer.h"

#include <utility>

#include "base/status_macros.h"
#include "coordinator/text/nfc.h"
#include "coordinator/text/tokenizer_model.h"
#include "coordinator/text/utf8.h"

namespace trireme {

absl::Status Tokenizer::Model::EncodeText(std::string_view text, std::vector<int32_t>& out) const {
  ASSIGN_OR_RETURN(const PreTokenizer::Words words, pre_tokenizer.Split(text));
  for (const std::string_view word : words.words) bpe.Encode(word, out);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  std::string replaced;
  if (!IsValidUtf8(text)) {
    replaced = ReplaceInvalidUtf8(text);
    text = replaced;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 2);
  if (options.add_special_tokens) ids = model_->prefix_ids;
  std::vector<TextSegment> raw;
  model_->raw_added.Split(text, options.parse_special, raw);
  std::vector<TextSegment> segments;
  for (const TextSegment& part : raw) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    std::string normalized;
    if (model_->nfc) normalized = NormalizeNfc(part.text);
    segments.clear();
    model_->normalized_added.Split(model_->nfc ? normalized : part.text, options.parse_special,
                                   segments);
    for (const TextSegment& segment : segments) {
      if (segment.id >= 0) {
        ids.push_back(segment.id);
      } else {
        RETURN_IF_ERROR(model_->EncodeText(segment.text, ids));
      }
    }
  }
  if (options.add_special_tokens) {
    ids.insert(ids.end(), model_->suffix_ids.begin(), model_->suffix_ids.end());
  }
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (skip_special && IsSpecial(id)) continue;
    bytes.append(TokenBytes(id));
  }
  return IsValidUtf8(bytes) ? bytes : ReplaceInvalidUtf8(bytes);
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return model_->tokens[static_cast<size_t>(id)].bytes;
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(model_->tokens.size()); }

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  const auto it = model_->ids.find(token);
  if (it == model_->ids.end()) return std::nullopt;
  return it->second;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && model_->tokens[static_cast<size_t>(id)].special;
}

}  // namespace trireme
