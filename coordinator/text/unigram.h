#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/text/byte_trie.h"
#include "coordinator/text/text_model.h"
#include "coordinator/text/vocabulary.h"

namespace trireme {

// A unigram language model (Kudo, 2018), as Hugging Face's "Unigram" computes it (T5, ALBERT,
// XLM-R): of all ways to cut a word into pieces, the one with the largest sum of scores, by
// Viterbi. A character that no piece stands for costs ten more than the worst piece.
class Unigram : public TextModel {
 public:
  struct Options {
    int32_t unknown_id = -1;
    bool byte_fallback = false;  // unknown characters become "<0x..>" tokens, if all exist
  };
  // Longer pieces are refused: each position of a text looks that far ahead.
  static constexpr size_t kPieceBytesMax = 1024;

  // A finite score for each token; all pieces are in the model.
  static absl::StatusOr<std::unique_ptr<Unigram>> Create(
      std::shared_ptr<const Vocabulary> vocabulary, std::vector<double> scores, Options options);

  void Encode(std::string_view word, std::vector<int32_t>& ids) const override;

 private:
  // The best way to cut the word up to a position: its last piece.
  struct Step {
    int32_t id = -1;
    int32_t begin = -1;  // -1: not reached
    double score = 0;
  };

  Unigram() = default;
  std::vector<Step> BestSteps(std::string_view word) const;
  void AppendUnknown(std::string_view text, std::vector<int32_t>& ids) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  std::vector<double> scores_;
  Options options_;
  double unknown_score_ = 0;
  ByteTrie trie_;  // the pieces' ids
  std::array<int32_t, 256> byte_id_{};
};

}  // namespace trireme
