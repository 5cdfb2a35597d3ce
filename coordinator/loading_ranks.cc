#include "coordinator/loading_ranks.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "base/log.h"

namespace trireme {
namespace {

constexpr size_t kRanksMax = 16384;
constexpr size_t kHostMax = 255;
constexpr size_t kGangIdMax = 64;
// How long a gang's end is remembered for a rank whose network is not back yet.
constexpr std::chrono::minutes kLostMemory{30};

bool IsText(const std::string& text, size_t size_max) {
  return text.size() <= size_max && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isprint(c);
         });
}

}  // namespace

absl::StatusOr<LoadingRanks::Heard> LoadingRanks::Report(const v1::LoadingRank& rank, Time now) {
  const std::string& host = rank.host();
  if (host.empty() || !IsText(host, kHostMax) || !IsText(rank.gang_id(), kGangIdMax) ||
      rank.bytes_done() > rank.bytes_total() || !std::isfinite(rank.bytes_per_s()) ||
      rank.bytes_per_s() < 0) {
    return absl::InvalidArgumentError("no rank loads like that: check its host, bytes and rate");
  }
  const std::lock_guard lock(mutex_);
  Forget(now);
  const Process key(host, rank.pid(), rank.rank(), rank.gang_id());
  if (by_process_.size() >= kRanksMax && !by_process_.contains(key)) {
    return absl::ResourceExhaustedError("too many ranks load");
  }
  Entry& entry = by_process_[key];
  Heard heard{.moved = rank.bytes_done() > entry.rank.bytes_done(), .lost = ""};
  const bool gap = now - entry.heard > silence_max_ / 2;
  entry = {.rank = rank, .since = gap ? now : entry.since, .heard = now};
  if (!rank.gang_id().empty()) heard.lost = WhyLost(entry, now);
  return heard;
}

void LoadingRanks::Forget(Time now) {
  // Also longer than this coordinator may have heard nobody.
  std::erase_if(by_process_,
                [&](const auto& entry) { return now - entry.second.heard > 6 * silence_max_; });
  std::erase_if(lost_, [&](const auto& entry) { return now - entry.second.when > kLostMemory; });
}

// All ranks of a gang begin to serve at once, so one that has told of its load and falls silent
// before the others do is gone. Nobody was heard while this coordinator was stopped or cut off:
// what counts is how long the reporter was heard and the other was not.
std::string LoadingRanks::WhyLost(const Entry& reporter, Time now) {
  const std::string& gang_id = reporter.rank.gang_id();
  const auto known = lost_.find(gang_id);
  if (known != lost_.end()) return known->second.why;
  for (const auto& [process, entry] : by_process_) {
    if (entry.rank.gang_id() != gang_id) continue;
    const std::chrono::duration<double> silent = now - std::max(entry.heard, reporter.since);
    const absl::Status may_join = cordoned_.Check(entry.rank.host());
    if (may_join.ok() && silent <= silence_max_) continue;
    std::string why =
        may_join.ok()
            ? absl::StrFormat(
                  "rank %d (%s), pid %d, has been silent for %.1f s while it loaded: it has ended, "
                  "or its host or network is gone",
                  entry.rank.rank(), entry.rank.host(), entry.rank.pid(), silent.count())
            : std::string(may_join.message());
    LogWarning(why);
    if (lost_.size() < kRanksMax) lost_[gang_id] = {.why = why, .when = now};
    return why;
  }
  return "";
}

std::vector<v1::LoadingRank> LoadingRanks::List(const v1::ListRanksResponse& serving, Time now) {
  const std::lock_guard lock(mutex_);
  Forget(now);
  for (const v1::Gang& gang : serving.gangs()) {
    for (const v1::RankInfo& rank : gang.ranks()) {
      const Process begin(rank.host(), rank.pid(), rank.rank(), "");
      const Process end(rank.host(), rank.pid(), rank.rank() + 1, "");
      by_process_.erase(by_process_.lower_bound(begin), by_process_.lower_bound(end));
    }
  }
  std::vector<v1::LoadingRank> list;
  for (const auto& [process, entry] : by_process_) {
    if (now - entry.heard <= kSilence) list.push_back(entry.rank);
  }
  std::stable_sort(list.begin(), list.end(), [](const auto& a, const auto& b) {
    return std::forward_as_tuple(a.host(), a.rank()) < std::forward_as_tuple(b.host(), b.rank());
  });
  return list;
}

}  // namespace trireme
