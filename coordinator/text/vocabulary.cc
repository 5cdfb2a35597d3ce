#include "coordinator/text/vocabulary.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "coordinator/text/strings.h"

namespace trireme {
namespace {

uint64_t Hash(std::string_view text) { return std::hash<std::string_view>()(text); }

uint32_t Tag(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

}  // namespace

absl::StatusOr<Vocabulary> Vocabulary::Create(std::span<const Token> tokens) {
  if (tokens.size() > size_t{kIdMax} + 1) {
    return absl::InvalidArgumentError(
        StrCat(tokens.size(), " tokens, more than ", size_t{kIdMax} + 1));
  }
  size_t bytes = 0;
  for (const Token& token : tokens) bytes += token.text.size();
  if (bytes > UINT32_MAX) {
    return absl::InvalidArgumentError("the tokens have more than 4 GiB of text");
  }
  Vocabulary result;
  result.texts_.reserve(bytes);
  result.begins_.reserve(tokens.size() + 1);
  result.begins_.push_back(0);
  result.flags_.reserve(tokens.size());
  result.slots_.resize(std::bit_ceil(tokens.size() + tokens.size() / 3 + 1));
  const size_t mask = result.slots_.size() - 1;
  for (const Token& token : tokens) {
    const int32_t id = result.size();
    result.texts_.append(token.text);
    result.begins_.push_back(static_cast<uint32_t>(result.texts_.size()));
    result.flags_.push_back(static_cast<uint8_t>((token.exists ? kExists : 0) |
                                                 (token.special ? kSpecial : 0) |
                                                 (token.piece ? kPiece : 0)));
    if (!token.exists) continue;
    if (token.piece) result.piece_bytes_max_ = std::max(result.piece_bytes_max_, token.text.size());
    const uint64_t hash = Hash(token.text);
    size_t i = hash & mask;
    for (; result.slots_[i].id >= 0; i = (i + 1) & mask) {
      const Slot& slot = result.slots_[i];
      if (slot.tag == Tag(hash) && result.Text(slot.id) == token.text) {
        return absl::InvalidArgumentError(
            StrCat("tokens ", slot.id, " and ", id, " are both \"", token.text, "\""));
      }
    }
    result.slots_[i] = {Tag(hash), id};
  }
  return result;
}

std::string_view Vocabulary::Text(int32_t id) const {
  if (id < 0 || id >= size()) return {};
  const auto i = static_cast<size_t>(id);
  return std::string_view(texts_).substr(begins_[i], begins_[i + 1] - begins_[i]);
}

int32_t Vocabulary::Find(std::string_view text) const {
  const uint64_t hash = Hash(text);
  const size_t mask = slots_.size() - 1;
  for (size_t i = hash & mask; slots_[i].id >= 0; i = (i + 1) & mask) {
    if (slots_[i].tag == Tag(hash) && Text(slots_[i].id) == text) return slots_[i].id;
  }
  return -1;
}

int32_t Vocabulary::FindPiece(std::string_view text) const {
  if (text.size() > piece_bytes_max_) return -1;
  const int32_t id = Find(text);
  return IsPiece(id) ? id : -1;
}

}  // namespace trireme
