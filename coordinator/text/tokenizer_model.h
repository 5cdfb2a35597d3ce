#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "coordinator/text/added_tokens.h"
#include "coordinator/text/bpe.h"
#include "coordinator/text/pre_tokenizer.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/tokenizer.h"

namespace trireme {

// What a loaded tokenizer consists of. Private to tokenizer*.cc.
struct Tokenizer::Model {
  // What stands for an id. `exists` because ids may have gaps.
  struct Token {
    std::string bytes;
    bool exists = false;
    bool special = false;
  };

  absl::Status EncodeText(std::string_view text, std::vector<int32_t>& ids) const;

  AddedTokenMatcher raw_added;         // searched for in the text as it comes
  AddedTokenMatcher normalized_added;  // searched for after normalization
  bool nfc = false;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  std::vector<int32_t> prefix_ids;  // of the post-processor
  std::vector<int32_t> suffix_ids;
  std::vector<Token> tokens;  // by id
  StringMap<int32_t> ids;
};

}  // namespace trireme
