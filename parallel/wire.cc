#include "parallel/wire.h"

#include <array>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

constexpr std::array kNames = {"auto", "nccl", "ipc", "staged"};

// Why the ranks cannot use a wire; empty if they can.
std::string WhyNotOwnGpus(std::span<const WirePlace> places) {
  for (size_t a = 0; a < places.size(); ++a) {
    for (size_t b = a + 1; b < places.size(); ++b) {
      if (places[a].machine_id == places[b].machine_id &&
          places[a].pci_bus_id == places[b].pci_bus_id) {
        return absl::StrCat("ranks ", a, " and ", b, " share the GPU ", places[a].pci_bus_id,
                            " of ", places[a].host);
      }
    }
  }
  return "";
}

std::string WhyNotNccl(std::span<const WirePlace> places) {
  for (size_t rank = 0; rank < places.size(); ++rank) {
    if (!places[rank].has_nccl) {
      return absl::StrCat("rank ", rank, " on ", places[rank].host, " has no NCCL");
    }
  }
  return WhyNotOwnGpus(places);
}

std::string WhyNotIpc(std::span<const WirePlace> places) {
  for (size_t rank = 0; rank < places.size(); ++rank) {
    if (places[rank].machine_id != places[0].machine_id) {
      return absl::StrCat("ranks 0 and ", rank, " are on two hosts, ", places[0].host, " and ",
                          places[rank].host);
    }
    if (!places[rank].has_ipc) return "the GPUs cannot address each other's memory";
  }
  if (places.size() > kIpcRanksMax || !std::has_single_bit(places.size())) {
    return absl::StrCat("ipc connects 2, 4 or ", kIpcRanksMax, " ranks, not ", places.size());
  }
  return WhyNotOwnGpus(places);
}

absl::Status CheckWishes(std::span<const WirePlace> places) {
  for (size_t rank = 1; rank < places.size(); ++rank) {
    if (places[rank].wish != places[0].wish ||
        places[rank].deterministic != places[0].deterministic) {
      return absl::InvalidArgumentError(
          absl::StrCat("ranks 0 and ", rank,
                       " were started with different --wire or --deterministic; give all ranks "
                       "the same"));
    }
  }
  if (places[0].wish == Wire::kNccl && places[0].deterministic) {
    return absl::InvalidArgumentError(
        "--wire nccl sums in an order of its own, which --deterministic forbids; drop one of them");
  }
  return absl::OkStatus();
}

absl::Status CannotHave(Wire wish, const std::string& reason) {
  return absl::FailedPreconditionError(absl::StrCat("--wire ", std::string(WireName(wish)),
                                                    " cannot be: ", reason,
                                                    "; use --wire auto or staged"));
}

WireChoice ChooseForLayers(const std::string& no_ipc, const std::string& no_nccl,
                           bool deterministic) {
  if (no_ipc.empty()) {
    if (deterministic) return {Wire::kIpc, false, "one host, sums in the fixed order"};
    if (no_nccl.empty()) return {Wire::kIpc, true, "one host, a GPU for each rank"};
    return {Wire::kIpc, false, absl::StrCat("one host; ", no_nccl)};
  }
  if (deterministic)
    return {Wire::kStaged, false, absl::StrCat("sums in the fixed order; ", no_ipc)};
  if (no_nccl.empty()) return {Wire::kNccl, false, absl::StrCat("no ipc: ", no_ipc)};
  if (no_ipc == no_nccl) return {Wire::kStaged, false, no_ipc};
  return {Wire::kStaged, false, absl::StrCat(no_ipc, "; ", no_nccl)};
}

}  // namespace

absl::StatusOr<Wire> ParseWire(std::string_view text) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (text == kNames[i]) return static_cast<Wire>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--wire ", std::string(text), ": it is auto, nccl, ipc or staged"));
}

std::string_view WireName(Wire wire) { return kNames[static_cast<size_t>(wire)]; }

absl::StatusOr<WireChoice> ChooseWire(std::span<const WirePlace> places, LinkUse use) {
  RETURN_IF_ERROR(CheckWishes(places));
  const Wire wish = places[0].wish;
  const std::string no_nccl = WhyNotNccl(places);
  const std::string no_ipc = WhyNotIpc(places);
  if (wish == Wire::kNccl && !no_nccl.empty()) return CannotHave(wish, no_nccl);
  if (wish == Wire::kNccl || wish == Wire::kStaged) return WireChoice{wish, false, "as told"};
  if (use == LinkUse::kStages) {
    if (no_nccl.empty()) return WireChoice{Wire::kNccl, false, "a GPU for each rank"};
    return WireChoice{Wire::kStaged, false, no_nccl};
  }
  if (wish == Wire::kIpc) {
    if (!no_ipc.empty()) return CannotHave(wish, no_ipc);
    return WireChoice{wish, false, "as told"};
  }
  return ChooseForLayers(no_ipc, no_nccl, places[0].deterministic);
}

}  // namespace trireme
