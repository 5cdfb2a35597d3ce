#include "coordinator/text/merge_table.h"

#include <algorithm>

#include "coordinator/text/strings.h"

namespace trireme {
namespace {

// Up to this many ids a scan for the best pair is faster than a heap.
constexpr size_t kShortIds = 48;

uint64_t PairKey(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

}  // namespace

MergeTable::Builder::Builder(const Vocabulary& vocabulary, std::string_view key, size_t count)
    : vocabulary_(vocabulary), key_(key) {
  table_.merges_.reserve(count);
}

absl::Status MergeTable::Builder::Add(std::string_view left, std::string_view right) {
  const auto missing = [&](std::string_view text) {
    return absl::InvalidArgumentError(StrCat(key_, "[", rank_, "]: \"", left, "\" + \"", right,
                                             "\": \"", text, "\" is not in the vocabulary"));
  };
  const int32_t left_id = left.empty() ? -1 : vocabulary_.Find(left);
  if (left_id < 0) return missing(left);
  const int32_t right_id = right.empty() ? -1 : vocabulary_.Find(right);
  if (right_id < 0) return missing(right);
  const int32_t merged = FindMerged(left, right);
  if (merged < 0) return missing(joined_);
  if (vocabulary_.IsPiece(left_id) && vocabulary_.IsPiece(right_id) &&
      vocabulary_.IsPiece(merged)) {
    table_.merges_[PairKey(left_id, right_id)] = {rank_, merged};
  }
  last_merged_ = merged;
  ++rank_;
  return absl::OkStatus();
}

int32_t MergeTable::Builder::FindMerged(std::string_view left, std::string_view right) {
  // Most vocabularies list the merged tokens in the order of their merges.
  const std::string_view next = vocabulary_.Text(last_merged_ + 1);
  if (next.size() == left.size() + right.size() && next.starts_with(left) &&
      next.ends_with(right)) {
    return last_merged_ + 1;
  }
  joined_.assign(left);
  joined_.append(right);
  return vocabulary_.Find(joined_);
}

Merge MergeTable::Find(int32_t left, int32_t right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? Merge{} : it->second;
}

void MergeTable::Apply(std::vector<int32_t>& ids, size_t begin) const {
  if (ids.size() - begin <= kShortIds) {
    ApplyShort(ids, begin);
  } else {
    ApplyLong(ids, begin);
  }
}

void MergeTable::ApplyShort(std::vector<int32_t>& ids, size_t begin) const {
  // pairs[i]: the merge of ids[begin + i] with the one after it.
  std::vector<Merge> pairs;
  for (size_t i = begin; i + 1 < ids.size(); ++i) pairs.push_back(Find(ids[i], ids[i + 1]));
  while (!pairs.empty()) {
    const auto best = std::min_element(
        pairs.begin(), pairs.end(), [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (best->id < 0) break;
    const auto i = static_cast<size_t>(best - pairs.begin());
    ids[begin + i] = best->id;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(begin + i + 1));
    pairs.erase(best);
    if (i > 0) pairs[i - 1] = Find(ids[begin + i - 1], ids[begin + i]);
    if (i < pairs.size()) pairs[i] = Find(ids[begin + i], ids[begin + i + 1]);
  }
}

void MergeTable::ApplyLong(std::vector<int32_t>& ids, size_t begin) const {
  SymbolList symbols(ids.size() - begin);
  for (size_t i = begin; i < ids.size(); ++i) {
    symbols.Append(ids[i], static_cast<uint32_t>(i - begin), static_cast<uint32_t>(i - begin + 1));
  }
  using Symbol = SymbolList::Symbol;
  symbols.MergeAll(
      [&](const Symbol& left, const Symbol& right) { return Find(left.id, right.id); });
  ids.resize(begin);
  symbols.ForEach([&](const Symbol& symbol) { ids.push_back(symbol.id); });
}

}  // namespace trireme
