#include "coordinator/text/character_bpe.h"

#include <algorithm>
#include <utility>

#include "coordinator/text/byte_pieces.h"
#include "coordinator/text/utf8.h"

namespace trireme {

CharacterBpe::CharacterBpe(std::shared_ptr<const Vocabulary> vocabulary, MergeTable merges,
                           Options options)
    : vocabulary_(std::move(vocabulary)),
      merges_(std::move(merges)),
      options_(options),
      byte_id_(BytePieces(*vocabulary_)) {}

bool CharacterBpe::AppendBytes(std::string_view character, std::vector<int32_t>& ids) const {
  const auto id = [&](char c) { return byte_id_[static_cast<uint8_t>(c)]; };
  if (!options_.byte_fallback ||
      !std::all_of(character.begin(), character.end(), [&](char c) { return id(c) >= 0; })) {
    return false;
  }
  for (const char c : character) ids.push_back(id(c));
  return true;
}

void CharacterBpe::Encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (options_.ignore_merges) {
    const int32_t whole = vocabulary_->FindPiece(word);
    if (whole >= 0) {
      ids.push_back(whole);
      return;
    }
  }
  const size_t begin = ids.size();
  // An unknown token is held back until the next piece, past the byte tokens between: as the
  // reference does it.
  bool unknown_pending = false;
  const auto flush = [&] {
    if (unknown_pending) ids.push_back(options_.unknown_id);
    unknown_pending = false;
  };
  for (size_t pos = 0; pos < word.size();) {
    const std::string_view character = word.substr(pos, NextUtf8(word.substr(pos)).bytes);
    pos += character.size();
    const int32_t id = vocabulary_->FindPiece(character);
    if (id >= 0) {
      flush();
      ids.push_back(id);
    } else if (!AppendBytes(character, ids) && options_.unknown_id >= 0) {
      if (!options_.fuse_unknown) flush();
      unknown_pending = true;
    }
  }
  flush();
  merges_.Apply(ids, begin);
}

}  // namespace trireme
