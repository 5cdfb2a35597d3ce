#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "coordinator/text/strings.h"

namespace trireme {

// Byte-level byte pair encoding (Sennrich et al., 2016; bytes as in GPT-2): a word starts as its
// bytes, and the adjacent pair with the smallest merge rank, leftmost first, is merged until no
// pair has a rank. Immutable, so thread safe.
class Bpe {
 public:
  struct Spec {
    // (entry in the byte alphabet, id); entries and ids unique, ids in [0, kIdMax].
    std::vector<std::pair<std::string, int32_t>> vocab;
    // (left, right) in order of rank. Both and their concatenation must be in the vocabulary.
    std::vector<std::pair<std::string, std::string>> merges;
    // A word that is in the vocabulary is one token, whatever the merges say (Llama 3).
    bool ignore_merges = false;
  };
  static constexpr int32_t kIdMax = (1 << 24) - 1;

  // InvalidArgument names the entry that breaks a rule; every byte must be in the vocabulary, so
  // that any text can be encoded.
  static absl::StatusOr<Bpe> Create(const Spec& spec);

  // Appends the ids of one pre-tokenized word, given as bytes. O(n log n) in the word's length.
  void Encode(std::string_view word, std::vector<int32_t>& ids) const;

  // The two ways Encode merges, by length of the word; they agree. Exposed for the test of that.
  void MergeShort(std::string_view word, std::vector<int32_t>& ids) const;
  void MergeLong(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t id;  // of the merged pair
  };
  static constexpr Merge kNoMerge = {INT32_MAX, -1};

  Bpe() = default;
  absl::Status AddMerges(const Spec& spec, const StringViewMap<int32_t>& ids);
  void AddWords(const Spec& spec);
  Merge Find(int32_t left, int32_t right) const;

  std::array<int32_t, 256> byte_id_{};
  absl::flat_hash_map<uint64_t, Merge> merges_;  // key: left id << 32 | right id
  // Words known to be one token: all that Encode would merge to themselves; with ignore_merges all.
  StringMap<int32_t> words_;
};

}  // namespace trireme
