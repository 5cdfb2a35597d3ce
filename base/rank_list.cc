#include "base/rank_list.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace trireme {
namespace {

constexpr size_t kNamedMax = 4;  // a gang may have a thousand

}  // namespace

std::string RankList(std::span<const uint32_t> ranks) {
  const auto named = ranks.first(std::min(ranks.size(), kNamedMax));
  const std::string more =
      ranks.size() > kNamedMax ? absl::StrCat(" and ", ranks.size() - kNamedMax, " more") : "";
  return absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(named, ", "), more);
}

}  // namespace trireme
