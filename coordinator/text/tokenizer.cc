#include "coordinator/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/file.h"
#include "base/status_macros.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/tokenizer_model.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

constexpr size_t kFileBytesMax = 64 << 20;
constexpr size_t kTextBytesMax = 256 << 20;

}  // namespace

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::filesystem::path& path) {
  std::error_code error;
  const bool directory = std::filesystem::is_directory(path, error);
  const std::filesystem::path file = directory ? path / "tokenizer.json" : path;
  ASSIGN_OR_RETURN(const std::string text, ReadFile(file, kFileBytesMax));
  return Parse(text, file.string());
}

absl::Status Tokenizer::Model::EncodeText(std::string_view text, bool first,
                                          std::vector<int32_t>& ids) const {
  ASSIGN_OR_RETURN(const PreTokenizer::Words words, pre_tokenizer.Split(text, first));
  for (const std::string_view word : words.words) text_model->Encode(word, ids);
  return absl::OkStatus();
}

void Tokenizer::Model::DecodeVocabulary(std::span<const Spelling> spellings) {
  const int32_t count = vocabulary->size();
  begins.reserve(static_cast<size_t>(count) + 1);
  begins.push_back(0);
  for (int32_t id = 0; id < count; ++id) {
    const auto other = decoded_as.find(id);
    const std::string_view text =
        other == decoded_as.end() ? vocabulary->Text(id) : std::string_view(other->second);
    const Spelling spelling =
        spellings.empty() ? Spelling::kDecoded : spellings[static_cast<size_t>(id)];
    if (spelling == Spelling::kDecoded) {
      decoder.Append(text, bytes);
    } else if (spelling == Spelling::kLiteral) {
      bytes.append(text);
    }
    begins.push_back(static_cast<uint32_t>(bytes.size()));
  }
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  if (text.size() > kTextBytesMax) {
    return absl::InvalidArgumentError(
        StrCat("a text of ", text.size(), " bytes; at most ", kTextBytesMax, " can be encoded"));
  }
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
    if (!model_->normalizer.empty()) {
      ASSIGN_OR_RETURN(normalized, model_->normalizer.Apply(part.text));
    }
    segments.clear();
    model_->normalized_added.Split(model_->normalizer.empty() ? part.text : normalized,
                                   options.parse_special, segments);
    bool first = part.text.data() == text.data();
    for (const TextSegment& segment : segments) {
      if (segment.id >= 0) {
        ids.push_back(segment.id);
      } else {
        RETURN_IF_ERROR(model_->EncodeText(segment.text, first, ids));
      }
      first = false;
    }
  }
  if (options.add_special_tokens) {
    ids.insert(ids.end(), model_->suffix_ids.begin(), model_->suffix_ids.end());
  }
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  bool first = true;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size() || (skip_special && IsSpecial(id))) continue;
    if (first && model_->decoder.first_differs()) {
      model_->decoder.AppendFirst(model_->vocabulary->Text(id), bytes);
    } else {
      bytes.append(TokenBytes(id));
    }
    first = false;
  }
  const size_t spaces = std::min(bytes.find_first_not_of(' '), bytes.size());
  bytes.erase(0, std::min(spaces, model_->decoder.strip_spaces()));
  return IsValidUtf8(bytes) ? bytes : ReplaceInvalidUtf8(bytes);
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const auto i = static_cast<size_t>(id);
  const uint32_t begin = model_->begins[i];
  return std::string_view(model_->bytes).substr(begin, model_->begins[i + 1] - begin);
}

int32_t Tokenizer::vocab_size() const { return model_->vocabulary->size(); }

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  const int32_t id = model_->vocabulary->Find(token);
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

bool Tokenizer::IsSpecial(int32_t id) const { return model_->vocabulary->IsSpecial(id); }

}  // namespace trireme
