#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

// The tokens of a tokenizer as its file writes them, by id and by text. All texts lie in one
// allocation, so that a quarter of a million tokens load in milliseconds. Immutable, so thread
// safe.
class Vocabulary {
 public:
  static constexpr int32_t kIdMax = (1 << 22) - 1;

  struct Token {
    std::string_view text;
    bool exists = false;   // ids may have gaps
    bool special = false;  // a control token, which decoding skips on demand
    bool piece = false;    // ordinary text may become this token
  };

  // `tokens` by id; texts are copied. InvalidArgument if there are too many or two are the same.
  static absl::StatusOr<Vocabulary> Create(std::span<const Token> tokens);

  // One more than the largest id.
  int32_t size() const { return static_cast<int32_t>(flags_.size()); }

  // "" for an id that no token has.
  std::string_view Text(int32_t id) const;
  bool IsSpecial(int32_t id) const { return Has(id, kSpecial); }
  bool IsPiece(int32_t id) const { return Has(id, kPiece); }

  // The token of this text, or -1.
  int32_t Find(std::string_view text) const;
  // The same, if it is a piece.
  int32_t FindPiece(std::string_view text) const;

  // Of any piece.
  size_t piece_bytes_max() const { return piece_bytes_max_; }

 private:
  enum Flag : uint8_t { kExists = 1, kSpecial = 2, kPiece = 4 };
  struct Slot {
    uint32_t tag = 0;  // the upper half of the text's hash
    int32_t id = -1;   // -1: free
  };

  bool Has(int32_t id, Flag flag) const {
    return id >= 0 && id < size() && (flags_[static_cast<size_t>(id)] & flag) != 0;
  }

  std::string texts_;
  std::vector<uint32_t> begins_;  // of each text; one more than tokens
  std::vector<uint8_t> flags_;
  std::vector<Slot> slots_;  // linear probing; a power of two, at most three quarters full
  size_t piece_bytes_max_ = 0;
};

}  // namespace trireme
