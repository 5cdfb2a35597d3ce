#include "coordinator/loading_ranks.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "absl/strings/ascii.h"

namespace trireme {
namespace {

constexpr size_t kRanksMax = 16384;
constexpr size_t kHostMax = 255;

}  // namespace

absl::StatusOr<bool> LoadingRanks::Report(const v1::LoadingRank& rank, Time now) {
  const std::string& host = rank.host();
  if (host.empty() || host.size() > kHostMax ||
      !std::all_of(host.begin(), host.end(),
                   [](unsigned char c) { return absl::ascii_isprint(c); }) ||
      rank.bytes_done() > rank.bytes_total() || !std::isfinite(rank.bytes_per_s()) ||
      rank.bytes_per_s() < 0) {
    return absl::InvalidArgumentError("no rank loads like that: check its host, bytes and rate");
  }
  const std::lock_guard lock(mutex_);
  Forget(now);
  const auto key = std::pair(host, rank.pid());
  if (by_process_.size() >= kRanksMax && !by_process_.contains(key)) {
    return absl::ResourceExhaustedError("too many ranks load");
  }
  Entry& entry = by_process_[key];
  const bool moved = rank.bytes_done() > entry.rank.bytes_done();
  entry = {.rank = rank, .heard = now};
  return moved;
}

void LoadingRanks::Forget(Time now) {
  std::erase_if(by_process_,
                [&](const auto& entry) { return now - entry.second.heard > kSilence; });
}

std::vector<v1::LoadingRank> LoadingRanks::List(const v1::ListRanksResponse& serving, Time now) {
  const std::lock_guard lock(mutex_);
  Forget(now);
  for (const v1::Gang& gang : serving.gangs()) {
    for (const v1::RankInfo& rank : gang.ranks()) by_process_.erase({rank.host(), rank.pid()});
  }
  std::vector<v1::LoadingRank> list;
  for (const auto& [process, entry] : by_process_) list.push_back(entry.rank);
  std::stable_sort(list.begin(), list.end(), [](const auto& a, const auto& b) {
    return std::forward_as_tuple(a.host(), a.rank()) < std::forward_as_tuple(b.host(), b.rank());
  });
  return list;
}

}  // namespace trireme
