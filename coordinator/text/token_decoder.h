#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace trireme {

// What tokens mean as text: the "decoder" of a Hugging Face tokenizer.json. Supported: ByteLevel,
// Metaspace, and a Sequence of Replace, ByteFallback, Fuse and Strip in this order, as
// SentencePiece vocabularies have it. Immutable, so thread safe.
class TokenDecoder {
 public:
  static absl::StatusOr<TokenDecoder> Parse(const nlohmann::json& json);
  static TokenDecoder ByteLevel();
  // "▁" is a space, "<0x..>" a byte; a text loses `strip_spaces` at its beginning.
  static TokenDecoder SentencePiece(size_t strip_spaces);

  // Appends the bytes that a token stands for inside of a text.
  void Append(std::string_view token, std::string& bytes) const;

  // What the first token of a text stands for differs: Metaspace leaves out its "▁".
  bool first_differs() const { return !first_removed_.empty(); }
  void AppendFirst(std::string_view token, std::string& bytes) const;

  // How many spaces a text loses at its beginning, at most.
  size_t strip_spaces() const { return strip_spaces_; }

 private:
  absl::Status AddStep(const nlohmann::json& json, const std::string& where);

  bool byte_level_ = false;
  std::vector<std::pair<std::string, std::string>> replacements_;
  bool byte_fallback_ = false;
  bool fused_ = false;
  size_t strip_spaces_ = 0;
  std::string first_removed_;
};

}  // namespace trireme
