#include "coordinator/whereabouts.h"

#include <algorithm>
#include <limits>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/rank_list.h"

namespace trireme {
namespace {

// A line that an operator reads; a gang may have a thousand ranks.
constexpr size_t kNamedMax = 4;
constexpr size_t kWhatBytesMax = 32;

std::vector<uint32_t> Ranks(const v1::Exchange& exchange) {
  return {exchange.ranks().begin(), exchange.ranks().end()};
}

std::string Activity(const v1::Register& registration, const v1::Progress& progress) {
  const bool in_step = progress.step_begun() > progress.step_done();
  if (progress.has_exchange()) {
    const v1::Exchange& exchange = progress.exchange();
    return absl::StrCat(", last seen in ",
                        in_step ? absl::StrCat("step ", progress.step_begun()) : "a self-test",
                        ", waiting for ", RankList(Ranks(exchange)), ": ",
                        absl::CHexEscape(exchange.what().substr(0, kWhatBytesMax)), " of ",
                        exchange.bytes(), " bytes");
  }
  if (progress.step_begun() == 0) return "";
  if (!in_step) return absl::StrCat(", last seen idle after step ", progress.step_done());
  const std::string& device = registration.info().device();
  return absl::StrCat(", last seen computing step ", progress.step_begun(),
                      device.substr(0, 4) == "cuda" ? " on the GPU" : "");
}

}  // namespace

std::string RankName(const v1::Register& registration) {
  return absl::StrCat("rank ", registration.info().rank(), " (",
                      absl::CHexEscape(registration.info().host()), ")");
}

std::string Whereabouts(const v1::Register& registration, const v1::Progress& progress) {
  return absl::StrCat(RankName(registration), ", pid ", registration.info().pid(),
                      Activity(registration, progress));
}

std::string DescribeDeadlock(const std::vector<StuckRank>& ranks) {
  uint64_t oldest = std::numeric_limits<uint64_t>::max();
  for (const StuckRank& rank : ranks) {
    if (rank.progress->has_exchange()) oldest = std::min(oldest, rank.progress->step_begun());
  }
  std::vector<std::string> waiting;
  std::set<uint32_t> awaited;
  std::set<std::string> hosts;
  for (const StuckRank& rank : ranks) {
    if (!rank.progress->has_exchange() || rank.progress->step_begun() != oldest) continue;
    waiting.push_back(Whereabouts(*rank.registration, *rank.progress));
    awaited.insert(rank.progress->exchange().ranks().begin(),
                   rank.progress->exchange().ranks().end());
    hosts.insert(absl::CHexEscape(rank.registration->info().host()));
  }
  std::vector<std::string> missing;
  for (const StuckRank& rank : ranks) {
    const v1::Register& registration = *rank.registration;
    if (awaited.count(registration.info().rank()) == 0) continue;
    hosts.insert(absl::CHexEscape(registration.info().host()));
    if (!rank.progress->has_exchange()) {
      missing.push_back(Whereabouts(registration, *rank.progress));
    }
  }
  const auto join = [](std::vector<std::string> parts) {
    const size_t count = parts.size();
    parts.resize(std::min(count, kNamedMax));
    return absl::StrCat(absl::StrJoin(parts, "; "),
                        count > kNamedMax ? absl::StrCat("; ", count - kNamedMax, " more") : "");
  };
  const std::string why = !missing.empty() ? absl::StrCat("missing: ", join(missing))
                          : hosts.size() > 1
                              ? absl::StrCat("the network between ", absl::StrJoin(hosts, ", "),
                                             " is cut, though each reaches the coordinator")
                              : "each waits for the other";
  return absl::StrCat(join(waiting), "; ", why);
}

}  // namespace trireme
