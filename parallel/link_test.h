#pragma once

#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace trireme {

// How fast two ranks exchange: the best of a few times, since a network is never too fast.
struct LinkTimes {
  double small_us = 0;    // 8 bytes there or back
  double large_gb_s = 0;  // up to 1 MiB there or back
};

// What a gang's ranks are to each other.
struct LinkTable {
  std::vector<std::string> hosts;  // by rank
  std::vector<LinkTimes> links;    // [a * ranks + b], of a < b
  std::vector<double> wire_gb_s;   // by rank: what its network interface could do; 0: unknown
  // Over all ranks: a float, and 1 MiB. Where their number is no power of two, which has no
  // all-reduce: all-gathers of 8 bytes, and of 1 MiB from all together.
  double all_reduce_us = 0;
  double all_reduce_large_ms = 0;
  double seconds = 0;  // this took

  int ranks() const { return static_cast<int>(hosts.size()); }
  const LinkTimes& link(int a, int b) const {
    return links[static_cast<size_t>(a) * hosts.size() + static_cast<size_t>(b)];
  }
};

// Every rank exchanges data with every other, in as many rounds as there are ranks, then all reduce
// together. After about `time` no measurement is repeated or enlarged, but each is made once.
// Collective; every rank gets the table. `hosts` is by rank, `wire_gb_s` this rank's (LinkTable).
// Errors: the communicator's.
absl::StatusOr<LinkTable> MeasureLinks(
    Communicator& world, std::span<const std::string> hosts, double wire_gb_s = 0,
    std::chrono::milliseconds time = std::chrono::milliseconds(2000));

// One line: what is usual inside a host and between hosts.
std::string DescribeLinks(const LinkTable& table);

// A line for each link that is several times slower than is usual for its kind, inside a host or
// between hosts, or for a rank of which most are. Usual is what the fastest quarter has, so that of
// three hosts one may be slow; fewer than three links of a kind do not tell. And a line for each
// other link between hosts with less than a tenth of what both interfaces could do.
std::vector<std::string> SlowLinks(const LinkTable& table);

}  // namespace trireme
