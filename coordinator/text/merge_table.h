#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "coordinator/text/symbol_list.h"
#include "coordinator/text/vocabulary.h"

namespace trireme {

// The merges of byte pair encoding (Sennrich et al., 2016): which pairs of tokens become one, and
// in which order. Immutable once filled, then thread safe.
class MergeTable {
 public:
  class Builder;

  // Merges the ids from `begin` on, in place. O(n log n).
  void Apply(std::vector<int32_t>& ids, size_t begin) const;

  // The two ways Apply merges, by number of ids; they agree. Exposed for the test of that.
  void ApplyShort(std::vector<int32_t>& ids, size_t begin) const;
  void ApplyLong(std::vector<int32_t>& ids, size_t begin) const;

 private:
  Merge Find(int32_t left, int32_t right) const;

  absl::flat_hash_map<uint64_t, Merge> merges_;  // key: left id << 32 | right id
};

// Fills a table from texts, in order of rank.
class MergeTable::Builder {
 public:
  // `key` names the list in errors. The vocabulary outlives the builder.
  Builder(const Vocabulary& vocabulary, std::string_view key, size_t count);

  // Both parts and their concatenation must be in the vocabulary; where one is no piece, the pair
  // never merges. A pair that is added twice has its later rank, as in Hugging Face's map.
  absl::Status Add(std::string_view left, std::string_view right);

  MergeTable Build() && { return std::move(table_); }

 private:
  // The token left + right, or -1.
  int32_t FindMerged(std::string_view left, std::string_view right);

  const Vocabulary& vocabulary_;
  std::string_view key_;
  int32_t rank_ = 0;
  int32_t last_merged_ = -1;
  std::string joined_;  // scratch
  MergeTable table_;
};

}  // namespace trireme
