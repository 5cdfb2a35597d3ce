#include "coordinator/text/scored_bpe.h"

#include <bit>
#include <cmath>
#include <utility>

#include "coordinator/text/byte_pieces.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/symbol_list.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

// An integer that falls as the score rises; equal only for equal scores.
int32_t RankOf(float score) {
  const auto bits = std::bit_cast<int32_t>(score + 0.0F);  // -0 is 0
  return ~(bits < 0 ? bits ^ INT32_MAX : bits);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ScoredBpe>> ScoredBpe::Create(
    std::shared_ptr<const Vocabulary> vocabulary, std::vector<float> scores) {
  std::unique_ptr<ScoredBpe> result(new ScoredBpe());
  result->byte_id_ = BytePieces(*vocabulary);
  for (size_t byte = 0; byte < 256; ++byte) {
    if (result->byte_id_[byte] >= 0) continue;
    return absl::InvalidArgumentError(StrCat("unsupported: the vocabulary lacks \"",
                                             BytePieceText(static_cast<uint8_t>(byte)), "\""));
  }
  result->ranks_.reserve(scores.size());
  for (const float score : scores) {
    if (std::isnan(score)) {
      return absl::InvalidArgumentError(
          StrCat("the score of token ", result->ranks_.size(), " is not a number"));
    }
    result->ranks_.push_back(RankOf(score));
  }
  result->vocabulary_ = std::move(vocabulary);
  return result;
}

void ScoredBpe::Encode(std::string_view word, std::vector<int32_t>& ids) const {
  using Symbol = SymbolList::Symbol;
  SymbolList symbols(word.size());
  for (size_t pos = 0; pos < word.size();) {
    const size_t bytes = NextUtf8(word.substr(pos)).bytes;
    symbols.Append(vocabulary_->FindPiece(word.substr(pos, bytes)), static_cast<uint32_t>(pos),
                   static_cast<uint32_t>(pos + bytes));
    pos += bytes;
  }
  symbols.MergeAll([&](const Symbol& left, const Symbol& right) {
    const int32_t id = vocabulary_->FindPiece(word.substr(left.begin, right.end - left.begin));
    return id < 0 ? Merge{} : Merge{ranks_[static_cast<size_t>(id)], id};
  });
  symbols.ForEach([&](const Symbol& symbol) {
    if (symbol.id >= 0) {
      ids.push_back(symbol.id);
      return;
    }
    for (const char c : word.substr(symbol.begin, symbol.end - symbol.begin)) {
      ids.push_back(byte_id_[static_cast<uint8_t>(c)]);
    }
  });
}

}  // namespace trireme
