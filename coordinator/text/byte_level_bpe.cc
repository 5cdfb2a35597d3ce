#include "coordinator/text/byte_level_bpe.h"

#include <string>
#include <utility>

#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/utf8.h"

namespace trireme {

absl::StatusOr<std::unique_ptr<ByteLevelBpe>> ByteLevelBpe::Create(
    std::shared_ptr<const Vocabulary> vocabulary, MergeTable merges, bool ignore_merges) {
  std::unique_ptr<ByteLevelBpe> result(new ByteLevelBpe());
  for (size_t byte = 0; byte < 256; ++byte) {
    std::string symbol;
    AppendUtf8(ByteToSymbol(static_cast<uint8_t>(byte)), symbol);
    result->byte_id_[byte] = vocabulary->FindPiece(symbol);
    if (result->byte_id_[byte] < 0) {
      return absl::InvalidArgumentError(
          StrCat("unsupported: the vocabulary lacks \"", symbol, "\", the symbol of byte ", byte));
    }
  }
  result->whole_ =
      std::make_unique<std::atomic<uint8_t>[]>(static_cast<size_t>(vocabulary->size()));
  result->vocabulary_ = std::move(vocabulary);
  result->merges_ = std::move(merges);
  result->ignore_merges_ = ignore_merges;
  return result;
}

void ByteLevelBpe::Encode(std::string_view word, std::vector<int32_t>& ids) const {
  const int32_t whole = FindWhole(word);
  if (whole >= 0) {
    ids.push_back(whole);
  } else {
    EncodeByMerges(word, ids);
  }
}

int32_t ByteLevelBpe::FindWhole(std::string_view word) const {
  if (word.size() > vocabulary_->piece_bytes_max()) return -1;
  std::string text;
  for (const char c : word) AppendUtf8(ByteToSymbol(static_cast<uint8_t>(c)), text);
  const int32_t id = vocabulary_->FindPiece(text);
  if (id < 0 || ignore_merges_) return id;
  std::atomic<uint8_t>& whole = whole_[static_cast<size_t>(id)];
  uint8_t known = whole.load(std::memory_order_relaxed);
  if (known == kNotAsked) {
    std::vector<int32_t> merged;
    EncodeByMerges(word, merged);
    known = merged.size() == 1 && merged[0] == id ? kYes : kNo;
    whole.store(known, std::memory_order_relaxed);
  }
  return known == kYes ? id : -1;
}

void ByteLevelBpe::EncodeByMerges(std::string_view word, std::vector<int32_t>& ids) const {
  const size_t begin = ids.size();
  for (const char c : word) ids.push_back(byte_id_[static_cast<uint8_t>(c)]);
  merges_.Apply(ids, begin);
}

}  // namespace trireme
