#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "coordinator/text/merge_table.h"
#include "coordinator/text/text_model.h"
#include "coordinator/text/vocabulary.h"

namespace trireme {

// Byte pair encoding over characters, as Hugging Face's "BPE" model does it for SentencePiece
// vocabularies (Llama 2, Mistral, Gemma): a word starts as its characters; what is no piece becomes
// its bytes' tokens or the unknown token; then merges by rank.
class CharacterBpe : public TextModel {
 public:
  struct Options {
    int32_t unknown_id = -1;     // -1: what no token stands for is left out
    bool fuse_unknown = false;   // neighbouring unknown characters are one token
    bool byte_fallback = false;  // a character becomes "<0x..>" tokens, if all of them exist
    bool ignore_merges = false;  // a word that is a piece is one token
  };

  CharacterBpe(std::shared_ptr<const Vocabulary> vocabulary, MergeTable merges, Options options);

  void Encode(std::string_view word, std::vector<int32_t>& ids) const override;

 private:
  // Appends the tokens of the bytes, if byte_fallback is on and there is one for each.
  bool AppendBytes(std::string_view character, std::vector<int32_t>& ids) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  MergeTable merges_;
  Options options_;
  std::array<int32_t, 256> byte_id_;
};

}  // namespace trireme
