#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/text/merge_table.h"
#include "coordinator/text/text_model.h"
#include "coordinator/text/vocabulary.h"

namespace trireme {

// Byte-level byte pair encoding (GPT-2): a word starts as its bytes, and the adjacent pair with the
// smallest merge rank, leftmost first, is merged until no pair has a rank. The vocabulary's texts
// are in the byte alphabet.
class ByteLevelBpe : public TextModel {
 public:
  // With ignore_merges a word that is a piece is one token, whatever the merges say (Llama 3).
  // InvalidArgument if a byte is not in the vocabulary: any text can be encoded.
  static absl::StatusOr<std::unique_ptr<ByteLevelBpe>> Create(
      std::shared_ptr<const Vocabulary> vocabulary, MergeTable merges, bool ignore_merges);

  void Encode(std::string_view word, std::vector<int32_t>& ids) const override;

 private:
  // Whether a piece is what its own bytes merge to. Asked for the first time, it is found out.
  enum Whole : uint8_t { kNotAsked, kYes, kNo };

  ByteLevelBpe() = default;
  // The piece that is the whole word and that merging would give, or -1.
  int32_t FindWhole(std::string_view word) const;
  void EncodeByMerges(std::string_view word, std::vector<int32_t>& ids) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  MergeTable merges_;
  bool ignore_merges_ = false;
  std::array<int32_t, 256> byte_id_{};
  // By id. Threads that ask at the same time find the same.
  std::unique_ptr<std::atomic<uint8_t>[]> whole_;
};

}  // namespace trireme
