#include "parallel/link_test.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kSmallTimes = 20;
constexpr int kLargeTimes = 3;  // of the largest
constexpr size_t kSmallBytes = 8;
constexpr size_t kLargeBytesMin = size_t{64} << 10;
constexpr size_t kLargeBytes = size_t{1} << 20;
constexpr size_t kLinksMin = 3;  // that tell what is usual
constexpr double kSlowFactor = 4;
// A small exchange is not slow for less than this: the system's scheduler may be the reason.
constexpr double kSlowMarginUs = 500;
constexpr double kSlowPartOfWire = 0.1;  // one stream of TCP does not fill the fastest

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// One rank's side of the link to `peer`. The lower rank sends and is answered. Both must repeat as
// often, so the first byte says whether there is time for more: the lower rank's, then both's.
class LinkMeter {
 public:
  LinkMeter(Communicator& world, int peer, Clock::time_point deadline)
      : world_(world), peer_(peer), deadline_(deadline), data_(kLargeBytes) {}

  // Of use on the lower rank.
  absl::StatusOr<LinkTimes> Measure() {
    RETURN_IF_ERROR(RoundTrip(kSmallBytes).status());  // now both are here
    double small = 0;
    for (int i = 0; i < kSmallTimes && (i == 0 || more_); ++i) {
      ASSIGN_OR_RETURN(const double seconds, RoundTrip(kSmallBytes));
      small = i == 0 ? seconds : std::min(small, seconds);
    }
    double bytes_s = 0;
    size_t bytes = kLargeBytesMin;
    for (int i = 0; i < kLargeTimes && (bytes_s == 0 || more_);) {
      ASSIGN_OR_RETURN(const double seconds, RoundTrip(bytes));
      const double rate = 2 * static_cast<double>(bytes) / seconds;
      bytes_s = i == 0 ? rate : std::max(bytes_s, rate);  // less flatters: buffers swallow it
      if (bytes == kLargeBytes) ++i;
      bytes = std::min(2 * bytes, kLargeBytes);
    }
    return LinkTimes{small / 2 * 1e6, bytes_s / 1e9};
  }

 private:
  // Seconds.
  absl::StatusOr<double> RoundTrip(size_t bytes) {
    const std::span<std::byte> data = std::span(data_).first(bytes);
    const auto start = Clock::now();
    const std::byte have_time = start < deadline_ ? std::byte{1} : std::byte{0};
    if (world_.rank() < peer_) {
      data[0] = have_time;
      RETURN_IF_ERROR(world_.Send(data, peer_));
      RETURN_IF_ERROR(world_.Recv(data, peer_));
    } else {
      RETURN_IF_ERROR(world_.Recv(data, peer_));
      data[0] &= have_time;
      RETURN_IF_ERROR(world_.Send(data, peer_));
    }
    more_ = data[0] != std::byte{0};
    return SecondsSince(start);
  }

  Communicator& world_;
  const int peer_;
  const Clock::time_point deadline_;
  std::vector<std::byte> data_;
  bool more_ = false;  // both had time at the last
};

// Seconds of the mean of up to `times`: when ranks are apart by a delay, one waits in every second
// only. The first element counts the ranks that are out of time.
absl::StatusOr<double> MeanAllReduce(Communicator& world, std::span<float> data, int times,
                                     Clock::time_point deadline) {
  RETURN_IF_ERROR(world.Barrier());
  const auto start = Clock::now();
  int done = 0;
  do {
    data[0] = Clock::now() < deadline ? 0 : 1;
    RETURN_IF_ERROR(world.AllReduceSum(data));
    ++done;
  } while (done < times && data[0] == 0);
  return SecondsSince(start) / done;
}

bool HasAllReduce(int ranks) { return (ranks & (ranks - 1)) == 0; }

// As MeanAllReduce, of so many bytes from each rank.
absl::StatusOr<double> MeanAllGather(Communicator& world, size_t bytes, int times,
                                     Clock::time_point deadline) {
  std::vector<std::byte> mine(bytes);
  std::vector<std::byte> all(bytes * static_cast<size_t>(world.size()));
  RETURN_IF_ERROR(world.Barrier());
  const auto start = Clock::now();
  int done = 0;
  bool out_of_time = false;
  do {
    mine[0] = Clock::now() < deadline ? std::byte{0} : std::byte{1};
    RETURN_IF_ERROR(world.AllGather(mine, all));
    ++done;
    for (size_t at = 0; at < all.size(); at += bytes) out_of_time |= all[at] != std::byte{0};
  } while (done < times && !out_of_time);
  return SecondsSince(start) / done;
}

absl::Status MeasureAllReduce(Communicator& world, Clock::time_point deadline, LinkTable& table) {
  if (world.size() == 1) return absl::OkStatus();
  std::vector<float> data(kLargeBytes / sizeof(float));
  const auto mean = [&](bool is_small) {
    const int times = is_small ? kSmallTimes : kLargeTimes;
    if (HasAllReduce(world.size())) {
      return MeanAllReduce(world, is_small ? std::span(data).first(1) : data, times, deadline);
    }
    const size_t bytes = is_small ? kSmallBytes : kLargeBytes / static_cast<size_t>(world.size());
    return MeanAllGather(world, bytes, times, deadline);
  };
  ASSIGN_OR_RETURN(const double small, mean(true));
  ASSIGN_OR_RETURN(const double large, mean(false));
  table.all_reduce_us = small * 1e6;
  table.all_reduce_large_ms = large * 1e3;
  return absl::OkStatus();
}

using Links = std::vector<std::pair<int, int>>;

// Links inside a host, or between hosts, and what is usual for them.
struct Kind {
  const char* where;
  Links links;
  LinkTimes usual;
};

// The value after the first `part` of them; 0 of none.
template <typename Less>
double Quantile(std::vector<double> values, double part, Less less) {
  if (values.empty()) return 0;
  const auto at =
      values.begin() + static_cast<ptrdiff_t>(part * static_cast<double>(values.size()));
  std::nth_element(values.begin(), at, values.end(), less);
  return *at;
}

LinkTimes TimesOf(const LinkTable& table, const Links& links, double part) {
  std::vector<double> small;
  std::vector<double> large;
  for (const auto& [a, b] : links) {
    small.push_back(table.link(a, b).small_us);
    large.push_back(table.link(a, b).large_gb_s);
  }
  return {Quantile(std::move(small), part, std::less()),
          Quantile(std::move(large), part, std::greater())};
}

Kind MakeKind(const LinkTable& table, bool same_host) {
  Kind kind{.where = same_host ? "inside a host" : "between hosts", .links = {}, .usual = {}};
  for (int a = 0; a < table.ranks(); ++a) {
    for (int b = a + 1; b < table.ranks(); ++b) {
      const auto host = [&](int rank) { return table.hosts[static_cast<size_t>(rank)]; };
      if ((host(a) == host(b)) == same_host) kind.links.emplace_back(a, b);
    }
  }
  kind.usual = TimesOf(table, kind.links, 0.25);
  return kind;
}

std::string DescribeTimes(const LinkTimes& times) {
  return absl::StrFormat("%.0f us and %.3g GB/s", times.small_us, times.large_gb_s);
}

bool IsSlow(const LinkTimes& times, const LinkTimes& usual) {
  return times.small_us > kSlowFactor * usual.small_us + kSlowMarginUs ||
         times.large_gb_s * kSlowFactor < usual.large_gb_s;
}

std::string RankName(const LinkTable& table, int rank) {
  return absl::StrCat("rank ", rank, " (", table.hosts[static_cast<size_t>(rank)], ")");
}

std::string LinkIsSlow(const LinkTable& table, std::pair<int, int> link, const std::string& where) {
  return absl::StrCat(
      "the link between ", RankName(table, link.first), " and ", RankName(table, link.second),
      " is slow: ", DescribeTimes(table.link(link.first, link.second)), ", where ", where);
}

// Adds lines for links slower than usual, and returns these.
Links AddSlowLinks(const LinkTable& table, const Kind& kind, std::vector<std::string>& lines) {
  std::vector<Links> all(table.hosts.size());  // by rank
  std::vector<Links> slow(table.hosts.size());
  Links slow_links;
  for (const auto& link : kind.links) {
    const bool is_slow = IsSlow(table.link(link.first, link.second), kind.usual);
    for (const int rank : {link.first, link.second}) {
      all[static_cast<size_t>(rank)].push_back(link);
      if (is_slow) slow[static_cast<size_t>(rank)].push_back(link);
    }
    if (is_slow) slow_links.push_back(link);
  }
  const auto is_slow_rank = [&](int rank) {
    const auto i = static_cast<size_t>(rank);
    return slow[i].size() > 1 && 2 * slow[i].size() > all[i].size();
  };
  const std::string usual = absl::StrCat(DescribeTimes(kind.usual), " are usual");
  for (int rank = 0; rank < table.ranks(); ++rank) {
    const auto i = static_cast<size_t>(rank);
    if (!is_slow_rank(rank)) continue;
    lines.push_back(absl::StrCat(RankName(table, rank), " is slow: ", slow[i].size(), " of its ",
                                 all[i].size(), " links ", kind.where, " take about ",
                                 DescribeTimes(TimesOf(table, slow[i], 0.5)), ", where ", usual));
  }
  for (const auto& link : slow_links) {
    if (is_slow_rank(link.first) || is_slow_rank(link.second)) continue;
    lines.push_back(LinkIsSlow(table, link, usual));
  }
  return slow_links;
}

// Of links that no line names yet.
void AddLinksBelowTheirWire(const LinkTable& table, const Links& links, const Links& named,
                            std::vector<std::string>& lines) {
  if (table.wire_gb_s.empty()) return;
  for (const auto& link : links) {
    const double wire = std::min(table.wire_gb_s[static_cast<size_t>(link.first)],
                                 table.wire_gb_s[static_cast<size_t>(link.second)]);
    if (table.link(link.first, link.second).large_gb_s >= kSlowPartOfWire * wire) continue;
    if (std::find(named.begin(), named.end(), link) != named.end()) continue;
    lines.push_back(LinkIsSlow(table, link,
                               absl::StrFormat("the network interfaces could do %.3g GB/s", wire)));
  }
}

}  // namespace

absl::StatusOr<LinkTable> MeasureLinks(Communicator& world, std::span<const std::string> hosts,
                                       double wire_gb_s, std::chrono::milliseconds time) {
  const int ranks = world.size();
  LinkTable table;
  table.hosts.assign(hosts.begin(), hosts.end());
  std::vector<LinkTimes> mine(static_cast<size_t>(ranks));
  RETURN_IF_ERROR(world.Barrier());
  const auto start = Clock::now();
  // In round r, ranks whose sum is r modulo their number are partners: every two meet once. The
  // all-reduce is one round more.
  const auto deadline = [&](int round) { return start + time * (round + 1) / (ranks + 1); };
  for (int round = 0; round < ranks; ++round) {
    const int peer = (round - world.rank() + ranks) % ranks;
    if (peer == world.rank()) continue;
    ASSIGN_OR_RETURN(mine[static_cast<size_t>(peer)],
                     LinkMeter(world, peer, deadline(round)).Measure());
  }
  table.links.resize(static_cast<size_t>(ranks) * static_cast<size_t>(ranks));
  RETURN_IF_ERROR(world.AllGather(std::as_bytes(std::span(mine)),
                                  std::as_writable_bytes(std::span(table.links))));
  table.wire_gb_s.resize(static_cast<size_t>(ranks));
  RETURN_IF_ERROR(world.AllGather(std::as_bytes(std::span(&wire_gb_s, 1)),
                                  std::as_writable_bytes(std::span(table.wire_gb_s))));
  RETURN_IF_ERROR(MeasureAllReduce(world, deadline(ranks), table));
  table.seconds = SecondsSince(start);
  return table;
}

std::string DescribeLinks(const LinkTable& table) {
  std::vector<std::string> parts;
  for (const bool same_host : {true, false}) {
    const Kind kind = MakeKind(table, same_host);
    if (!kind.links.empty()) {
      parts.push_back(absl::StrCat(kind.where, " ", DescribeTimes(kind.usual)));
    }
  }
  if (table.all_reduce_us > 0) {
    parts.push_back(absl::StrFormat("all-%s over %d ranks %.0f us, of 1 MiB %.2f ms",
                                    HasAllReduce(table.ranks()) ? "reduce" : "gather",
                                    table.ranks(), table.all_reduce_us, table.all_reduce_large_ms));
  }
  return absl::StrFormat("links, measured for %.1f s: %s", table.seconds,
                         absl::StrJoin(parts, "; "));
}

std::vector<std::string> SlowLinks(const LinkTable& table) {
  std::vector<std::string> lines;
  for (const bool same_host : {true, false}) {
    const Kind kind = MakeKind(table, same_host);
    const Links slow = kind.links.size() < kLinksMin ? Links() : AddSlowLinks(table, kind, lines);
    if (!same_host) AddLinksBelowTheirWire(table, kind.links, slow, lines);
  }
  return lines;
}

}  // namespace trireme
