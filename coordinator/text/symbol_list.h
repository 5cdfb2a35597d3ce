#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

namespace trireme {

// What two neighbours become. The smallest rank goes first.
struct Merge {
  int32_t rank = INT32_MAX;
  int32_t id = -1;  // -1: they do not merge
};

// The symbols of one word while byte pair encoding merges them: a doubly linked list in an array.
class SymbolList {
 public:
  struct Symbol {
    int32_t id;      // -1: a character that is no token
    uint32_t begin;  // what it covers of the word
    uint32_t end;
    int32_t previous;  // indices, -1 at the ends
    int32_t next;
  };

  // `count`: how many symbols will be appended, at most.
  explicit SymbolList(size_t count) { symbols_.reserve(count); }

  void Append(int32_t id, uint32_t begin, uint32_t end) {
    const auto index = static_cast<int32_t>(symbols_.size());
    if (index > 0) symbols_.back().next = index;
    symbols_.push_back({id, begin, end, index - 1, -1});
  }

  // Merges the pair of smallest rank, the leftmost of several, until no pair has a merge.
  // find(left, right) gives the Merge of two neighbours. O(n log n) calls and steps.
  template <typename Find>
  void MergeAll(const Find& find);

  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (int32_t i = symbols_.empty() ? -1 : 0; i >= 0; i = At(i).next) visit(At(i));
  }

 private:
  struct Candidate {
    Merge merge;
    int32_t left;  // index of the left symbol
    uint32_t end;  // of the right one: the pair is stale once that changed
    bool operator>(const Candidate& other) const {
      return std::pair(merge.rank, left) > std::pair(other.merge.rank, other.left);
    }
  };

  const Symbol& At(int32_t i) const { return symbols_[static_cast<size_t>(i)]; }
  Symbol& At(int32_t i) { return symbols_[static_cast<size_t>(i)]; }

  std::vector<Symbol> symbols_;
};

template <typename Find>
void SymbolList::MergeAll(const Find& find) {
  std::vector<Candidate> candidates;
  const auto add = [&](int32_t left, const auto& push) {
    if (left < 0 || At(left).next < 0) return;
    const Symbol& right = At(At(left).next);
    const Merge merge = find(At(left), right);
    if (merge.id >= 0) push(Candidate{merge, left, right.end});
  };
  for (int32_t i = 0; i < static_cast<int32_t>(symbols_.size()); ++i) {
    add(i, [&](const Candidate& candidate) { candidates.push_back(candidate); });
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(
      std::greater<>(), std::move(candidates));
  const auto push = [&](const Candidate& candidate) { queue.push(candidate); };
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Symbol& left = At(candidate.left);
    // A symbol that was merged away covers nothing. A left one that grew did so by its right one.
    if (left.begin == left.end || left.next < 0) continue;
    Symbol& right = At(left.next);
    if (right.end != candidate.end) continue;
    left.id = candidate.merge.id;
    left.end = right.end;
    right.end = right.begin;
    left.next = right.next;
    if (left.next >= 0) At(left.next).previous = candidate.left;
    add(left.previous, push);
    add(candidate.left, push);
  }
}

}  // namespace trireme
