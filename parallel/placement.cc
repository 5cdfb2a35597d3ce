#include "parallel/placement.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"

namespace trireme {
namespace {

using Processes = std::vector<int>;  // indices of places

bool HasNvlink(const RankPlace& from, const RankPlace& to) {
  return !to.gpu.empty() &&
         std::find(from.nvlinks.begin(), from.nvlinks.end(), to.gpu) != from.nvlinks.end();
}

bool SameHost(const RankPlace& a, const RankPlace& b) { return a.host == b.host; }
bool SameNumaNode(const RankPlace& a, const RankPlace& b) { return a.numa_node == b.numa_node; }

// Classes of processes of which each is related to all others, in order; greedy, so that not every
// class is as large as it can be where the relation is no equivalence.
template <typename Related>
std::vector<Processes> Classes(std::span<const RankPlace> places, const Processes& processes,
                               Related related) {
  std::vector<Processes> classes;
  for (const int process : processes) {
    const RankPlace& place = places[static_cast<size_t>(process)];
    auto fits = std::find_if(classes.begin(), classes.end(), [&](const Processes& members) {
      return std::all_of(members.begin(), members.end(), [&](int member) {
        return related(places[static_cast<size_t>(member)], place);
      });
    });
    if (fits == classes.end()) fits = classes.insert(classes.end(), Processes());
    fits->push_back(process);
  }
  return classes;
}

// Moves as many whole groups as there are from the class to `order`; what is left goes to `rest`.
void TakeGroups(const Processes& members, size_t group, Processes& order, Processes& rest) {
  const auto whole = members.begin() + static_cast<std::ptrdiff_t>(members.size() / group * group);
  order.insert(order.end(), members.begin(), whole);
  rest.insert(rest.end(), whole, members.end());
}

// "rank 2 on a", "ranks 0-3 on a".
std::string DescribeRanks(int first, int end, const std::string& host) {
  return first + 1 == end ? absl::StrCat("rank ", first, " on ", host)
                          : absl::StrCat("ranks ", first, "-", end - 1, " on ", host);
}

// The ranks of one stage, a run of neighbours on each host.
std::string DescribeStage(std::span<const RankPlace> places, const ParallelLayout& layout,
                          int pp_rank) {
  std::vector<std::string> runs;
  const int end = (pp_rank + 1) * layout.tp;
  for (int first = pp_rank * layout.tp, rank = first + 1; first < end; ++rank) {
    const std::string& host = places[static_cast<size_t>(first)].host;
    if (rank < end && places[static_cast<size_t>(rank)].host == host) continue;
    runs.push_back(DescribeRanks(first, rank, host));
    first = rank;
  }
  return absl::StrJoin(runs, ", ");
}

}  // namespace

std::vector<int> OrderByTopology(std::span<const RankPlace> places, const ParallelLayout& layout) {
  CHECK(places.size() == static_cast<size_t>(layout.world_size()));
  const auto group = static_cast<size_t>(layout.tp);
  Processes all(places.size());
  std::iota(all.begin(), all.end(), 0);
  Processes order, without_host;
  for (Processes& host : Classes(places, all, SameHost)) {
    std::stable_sort(host.begin(), host.end(), [&](int a, int b) {
      const RankPlace &x = places[static_cast<size_t>(a)], &y = places[static_cast<size_t>(b)];
      return std::tie(x.numa_node, x.gpu) < std::tie(y.numa_node, y.gpu);
    });
    Processes without_nvlink, without_numa_node;
    for (const Processes& clique : Classes(places, host, HasNvlink)) {
      TakeGroups(clique, group, order, without_nvlink);
    }
    for (const Processes& node : Classes(places, without_nvlink, SameNumaNode)) {
      TakeGroups(node, group, order, without_numa_node);
    }
    TakeGroups(without_numa_node, group, order, without_host);
  }
  order.insert(order.end(), without_host.begin(), without_host.end());
  return order;
}

std::string DescribePlacement(std::span<const RankPlace> places, const ParallelLayout& layout) {
  std::vector<std::string> stages;
  for (int stage = 0; stage < layout.pp; ++stage) {
    stages.push_back(absl::StrCat("stage ", stage, ": ", DescribeStage(places, layout, stage)));
  }
  return absl::StrJoin(stages, "; ");
}

std::string WarnOfPlacement(std::span<const RankPlace> places, const ParallelLayout& layout) {
  std::vector<std::string> across;
  for (int stage = 0; stage < layout.pp; ++stage) {
    const auto ranks = places.subspan(static_cast<size_t>(stage) * static_cast<size_t>(layout.tp),
                                      static_cast<size_t>(layout.tp));
    if (std::all_of(ranks.begin(), ranks.end(),
                    [&](const RankPlace& place) { return SameHost(place, ranks.front()); })) {
      continue;
    }
    across.push_back(
        absl::StrCat("stage ", stage, " (", DescribeStage(places, layout, stage), ")"));
  }
  if (across.empty()) return "";
  return absl::StrCat("tensor parallelism goes over the network in ", absl::StrJoin(across, ", "),
                      ": two all-reduces in each layer of each step, where pipeline stages would "
                      "hand over once; start a multiple of --tp ranks on each host");
}

}  // namespace trireme
