#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/text/added_tokens.h"
#include "coordinator/text/normalizer.h"
#include "coordinator/text/pre_tokenizer.h"
#include "coordinator/text/text_model.h"
#include "coordinator/text/token_decoder.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/vocabulary.h"

namespace trireme {

// How a token's text is to be read: by the decoder, as it stands, or as nothing.
enum class Spelling : uint8_t { kDecoded, kLiteral, kSilent };

// What a loaded tokenizer consists of. Private to the files that read and use it.
struct Tokenizer::Model {
  absl::Status EncodeText(std::string_view text, bool first, std::vector<int32_t>& ids) const;

  std::shared_ptr<const Vocabulary> vocabulary;
  AddedTokenMatcher raw_added;         // searched for in the text as it comes
  AddedTokenMatcher normalized_added;  // searched for after normalization
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<const TextModel> text_model;
  TokenDecoder decoder;
  std::vector<int32_t> prefix_ids;  // of the post-processor
  std::vector<int32_t> suffix_ids;

  // What TokenBytes gives: token id is [begins[id], begins[id + 1]) of the bytes.
  std::string bytes;
  std::vector<uint32_t> begins;

  // Fills these two. `spellings` by id, or empty if the decoder knows all of them.
  void DecodeVocabulary(std::span<const Spelling> spellings);

  // The decoder reads these ids by another text than the vocabulary's.
  std::map<int32_t, std::string> decoded_as;
};

}  // namespace trireme
