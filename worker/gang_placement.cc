#include "worker/gang_placement.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

// A PCI bus id, cut off or filled up with zeros.
using BusId = std::array<char, 24>;

// What a rank tells of itself, as bytes.
struct Report {
  int32_t rank_asked = 0;
  int32_t numa_node = -1;
  BusId gpu{};
  std::array<BusId, 32> nvlinks{};  // the first empty one ends them
};

BusId ToBusId(const std::string& text) {
  BusId id{};
  text.copy(id.data(), id.size() - 1);
  return id;
}

std::string FromBusId(const BusId& id) {
  return std::string(id.data(), strnlen(&id[0], id.size()));
}

Report MakeReport(const PlacementOptions& options) {
  const RankPlace& place = options.place;
  Report report{.rank_asked = options.rank_asked ? 1 : 0,
                .numa_node = place.numa_node,
                .gpu = ToBusId(place.gpu)};
  const size_t links = std::min(place.nvlinks.size(), report.nvlinks.size());
  std::transform(place.nvlinks.begin(), place.nvlinks.begin() + static_cast<std::ptrdiff_t>(links),
                 report.nvlinks.begin(), ToBusId);
  return report;
}

RankPlace MakePlace(const std::string& host, const Report& report) {
  RankPlace place{.host = host, .numa_node = report.numa_node, .gpu = FromBusId(report.gpu)};
  for (const BusId& id : report.nvlinks) {
    if (id[0] != '\0') place.nvlinks.push_back(FromBusId(id));
  }
  return place;
}

}  // namespace

absl::StatusOr<std::vector<RankPlace>> PlaceRanks(const PlacementOptions& options,
                                                  GangWorld& world) {
  const Report mine = MakeReport(options);
  std::vector<Report> reports(static_cast<size_t>(world.ranks->size()));
  RETURN_IF_ERROR(world.ranks->AllGather(std::as_bytes(std::span(&mine, 1)),
                                         std::as_writable_bytes(std::span(reports))));
  std::vector<RankPlace> places;
  for (size_t rank = 0; rank < reports.size(); ++rank) {
    places.push_back(MakePlace(world.hosts[rank], reports[rank]));
  }
  const bool asked = std::any_of(reports.begin(), reports.end(),
                                 [](const Report& report) { return report.rank_asked != 0; });
  if (asked || !options.topology) return places;
  const std::vector<int> order = OrderByTopology(places, options.layout);
  if (std::is_sorted(order.begin(), order.end())) return places;

  const auto me = std::find(order.begin(), order.end(), world.ranks->rank());
  const int rank = static_cast<int>(me - order.begin());
  LogInfo(absl::StrCat("becomes rank ", rank, ", by the topology"));
  std::vector<RankPlace> placed;
  for (const int process : order) placed.push_back(std::move(places[static_cast<size_t>(process)]));
  ASSIGN_OR_RETURN(world.ranks, world.ranks->Split(0, rank));
  for (size_t i = 0; i < placed.size(); ++i) world.hosts[i] = placed[i].host;
  return placed;
}

}  // namespace trireme
