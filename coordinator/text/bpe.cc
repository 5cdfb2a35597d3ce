#include "coordinator/text/bpe.h"

#include <algorithm>
#include <optional>
#include <queue>

#include "absl/container/flat_hash_set.h"
#include "base/status_macros.h"
#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/strings.h"
#include "coordinator/text/utf8.h"

namespace trireme {
namespace {

// Up to this many bytes a scan for the best pair is faster than a heap.
constexpr size_t kShortBytes = 48;

uint64_t PairKey(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

}  // namespace

absl::StatusOr<Bpe> Bpe::Create(const Spec& spec) {
  StringViewMap<int32_t> ids;
  absl::flat_hash_set<int32_t> seen;
  for (const auto& [entry, id] : spec.vocab) {
    if (id < 0 || id > kIdMax) {
      return absl::InvalidArgumentError(StrCat("vocab: id ", id, " is not in 0 to ", kIdMax));
    }
    if (!seen.insert(id).second) {
      return absl::InvalidArgumentError(StrCat("vocab: two entries have id ", id));
    }
    if (!ids.emplace(entry, id).second) {
      return absl::InvalidArgumentError(StrCat("vocab: \"", entry, "\" appears twice"));
    }
  }
  Bpe bpe;
  for (size_t byte = 0; byte < 256; ++byte) {
    std::string symbol;
    AppendUtf8(ByteToSymbol(static_cast<uint8_t>(byte)), symbol);
    const auto it = ids.find(symbol);
    if (it == ids.end()) {
      return absl::InvalidArgumentError(
          StrCat("unsupported: vocab lacks \"", symbol, "\", the symbol of byte ", byte));
    }
    bpe.byte_id_[byte] = it->second;
  }
  RETURN_IF_ERROR(bpe.AddMerges(spec, ids));
  bpe.AddWords(spec);
  return bpe;
}

absl::Status Bpe::AddMerges(const Spec& spec, const StringViewMap<int32_t>& ids) {
  merges_.reserve(spec.merges.size());
  int32_t rank = 0;
  for (const auto& merge : spec.merges) {
    const std::string& left = merge.first;
    const std::string& right = merge.second;
    const auto find = [&](const std::string& entry) -> absl::StatusOr<int32_t> {
      const auto it = ids.find(entry);
      if (it != ids.end()) return it->second;
      return absl::InvalidArgumentError(StrCat("merges[", rank, "]: \"", left, "\" + \"", right,
                                               "\": \"", entry, "\" is not in vocab"));
    };
    ASSIGN_OR_RETURN(const int32_t left_id, find(left));
    ASSIGN_OR_RETURN(const int32_t right_id, find(right));
    ASSIGN_OR_RETURN(const int32_t merged_id, find(left + right));
    // A pair listed twice has its later rank, as in Hugging Face's map.
    merges_[PairKey(left_id, right_id)] = {rank, merged_id};
    ++rank;
  }
  return absl::OkStatus();
}

void Bpe::AddWords(const Spec& spec) {
  std::vector<int32_t> merged;
  StringMap<int32_t> words;
  for (const auto& [entry, id] : spec.vocab) {
    std::optional<std::string> word = SymbolsToBytes(entry);
    if (!word.has_value() || word->empty()) continue;
    if (!spec.ignore_merges) {
      merged.clear();
      Encode(*word, merged);
      if (merged.size() != 1 || merged[0] != id) continue;
    }
    words.emplace(*std::move(word), id);
  }
  words_ = std::move(words);
}

Bpe::Merge Bpe::Find(int32_t left, int32_t right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? kNoMerge : it->second;
}

void Bpe::Encode(std::string_view word, std::vector<int32_t>& ids) const {
  const auto it = words_.find(word);
  if (it != words_.end()) {
    ids.push_back(it->second);
  } else if (word.size() <= kShortBytes) {
    MergeShort(word, ids);
  } else {
    MergeLong(word, ids);
  }
}

void Bpe::MergeShort(std::string_view word, std::vector<int32_t>& ids) const {
  const size_t begin = ids.size();
  for (const char c : word) ids.push_back(byte_id_[static_cast<uint8_t>(c)]);
  // pairs[i]: the merge of ids[begin + i] with the one after it.
  std::vector<Merge> pairs;
  for (size_t i = begin; i + 1 < ids.size(); ++i) pairs.push_back(Find(ids[i], ids[i + 1]));
  while (!pairs.empty()) {
    const auto best = std::min_element(
        pairs.begin(), pairs.end(), [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (best->rank == kNoMerge.rank) break;
    const auto i = static_cast<size_t>(best - pairs.begin());
    ids[begin + i] = best->id;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(begin + i + 1));
    pairs.erase(best);
    if (i > 0) pairs[i - 1] = Find(ids[begin + i - 1], ids[begin + i]);
    if (i < pairs.size()) pairs[i] = Find(ids[begin + i], ids[begin + i + 1]);
  }
}

void Bpe::MergeLong(std::string_view word, std::vector<int32_t>& ids) const {
  // Symbols as a doubly linked list in an array; a merged-away symbol has id -1.
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    Merge merge;
    int32_t left;    // index of the left symbol
    int32_t ids[2];  // what the pair was when this was pushed: stale if it changed since
    bool operator>(const Candidate& other) const {
      return std::pair(merge.rank, left) > std::pair(other.merge.rank, other.left);
    }
  };
  const auto count = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols.push_back({byte_id_[static_cast<uint8_t>(word[static_cast<size_t>(i)])], i - 1,
                       i + 1 < count ? i + 1 : -1});
  }
  const auto at = [&](int32_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto push = [&](int32_t left) {
    if (left < 0 || at(left).next < 0) return;
    const int32_t right_id = at(at(left).next).id;
    const Merge merge = Find(at(left).id, right_id);
    if (merge.id >= 0) queue.push({merge, left, {at(left).id, right_id}});
  };
  for (int32_t i = 0; i < count; ++i) push(i);
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Symbol& left = at(candidate.left);
    if (left.id != candidate.ids[0] || left.next < 0) continue;
    Symbol& right = at(left.next);
    if (right.id != candidate.ids[1]) continue;
    left.id = candidate.merge.id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) at(left.next).previous = candidate.left;
    push(left.previous);
    push(candidate.left);
  }
  for (int32_t i = count > 0 ? 0 : -1; i >= 0; i = at(i).next) ids.push_back(at(i).id);
}

}  // namespace trireme
