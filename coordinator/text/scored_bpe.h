#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/text/text_model.h"
#include "coordinator/text/vocabulary.h"

namespace trireme {

// Byte pair encoding by the scores of tokens instead of a list of merges, as SentencePiece and
// llama.cpp do it (tokenizer.ggml.model "llama"): a word starts as its characters, and of the
// neighbours that together are a piece those with the largest score, leftmost first, are merged.
// What is no piece in the end becomes the tokens of its bytes.
class ScoredBpe : public TextModel {
 public:
  // A score for each token. InvalidArgument if a score is not a number, or a byte has no token
  // "<0x..>": any text can be encoded.
  static absl::StatusOr<std::unique_ptr<ScoredBpe>> Create(
      std::shared_ptr<const Vocabulary> vocabulary, std::vector<float> scores);

  void Encode(std::string_view word, std::vector<int32_t>& ids) const override;

 private:
  ScoredBpe() = default;

  std::shared_ptr<const Vocabulary> vocabulary_;
  std::vector<int32_t> ranks_;  // by id: the larger the score, the smaller
  std::array<int32_t, 256> byte_id_{};
};

}  // namespace trireme
