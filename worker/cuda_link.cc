#include "worker/cuda_link.h"

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_ops.h"
#include "parallel/backends/ipc.h"
#include "parallel/backends/nccl.h"
#include "parallel/backends/nccl_library.h"
#include "parallel/backends/nccl_place.h"

namespace trireme {
namespace {

using Made = absl::StatusOr<std::unique_ptr<DeviceCommunicator>>;

// A WirePlace on its way to the other ranks.
struct PlaceMessage {
  std::array<char, 64> host{};
  std::array<char, 64> machine_id{};
  std::array<char, 32> pci_bus_id{};
  Wire wish = Wire::kAuto;
  bool has_nccl = false;
  bool deterministic = false;
  bool known = false;  // false: this rank failed to find out
};

template <size_t kSize>
void Assign(std::array<char, kSize>& to, std::string_view text) {
  text.copy(to.data(), kSize - 1);
}

template <size_t kSize>
std::string TextOf(const std::array<char, kSize>& from) {
  const std::string_view all(from.data(), kSize);
  return std::string(all.substr(0, all.find('\0')));
}

// The ranks of one group, and what connects them.
class GpuGroup {
 public:
  GpuGroup(Communicator& group, Ops& ops, const GpuLinkOptions& options)
      : group_(group), ops_(ops), options_(options) {}

  Made Link(LinkUse use) {
    RETURN_IF_ERROR(ExchangePlaces());
    ASSIGN_OR_RETURN(WireChoice choice, ChooseWire(places_, use));
    if (choice.wire == Wire::kIpc) {
      std::unique_ptr<DeviceCommunicator> large;
      if (choice.large_by_nccl) {
        ASSIGN_OR_RETURN(large, MakeNccl());
      }
      Made ipc = MakeIpcCommunicator(&group_, mine_.stream, std::move(large),
                                     {.deterministic = options_.deterministic});
      if (ipc.ok() || options_.wire == Wire::kIpc) return Report(choice, use, std::move(ipc));
      // All ranks failed alike, so all choose again.
      LogWarning(std::string(ipc.status().message()));
      for (WirePlace& place : places_) place.has_ipc = false;
      ASSIGN_OR_RETURN(choice, ChooseWire(places_, use));
    }
    if (choice.wire == Wire::kNccl) return Report(choice, use, MakeNccl());
    return Report(choice, use, LinkThroughHost(ops_.memory())(group_, use));
  }

 private:
  // Collective. A rank that fails tells the others, so that none waits.
  absl::Status ExchangePlaces() {
    nccl_ = LoadNccl();
    const absl::StatusOr<NcclPlace> place = FindNcclPlace(cuda::StreamOf(ops_));
    PlaceMessage mine{.wish = options_.wire,
                      .has_nccl = nccl_.ok(),
                      .deterministic = options_.deterministic,
                      .known = place.ok()};
    if (place.ok()) {
      mine_ = *place;
      Assign(mine.host, place->host);
      Assign(mine.machine_id, place->machine_id);
      Assign(mine.pci_bus_id, place->pci_bus_id);
    }
    if (!nccl_.ok()) LogDebug(std::string(nccl_.status().message()));
    std::vector<PlaceMessage> all(static_cast<size_t>(group_.size()));
    RETURN_IF_ERROR(group_.AllGather(std::as_bytes(std::span(&mine, 1)),
                                     std::as_writable_bytes(std::span(all))));
    RETURN_IF_ERROR(place.status());
    for (size_t rank = 0; rank < all.size(); ++rank) {
      const PlaceMessage& other = all[rank];
      if (!other.known) {
        return absl::UnavailableError(
            absl::StrCat("rank ", rank, " of the group has no GPU; see its log"));
      }
      places_.push_back({.host = TextOf(other.host),
                         .machine_id = TextOf(other.machine_id),
                         .pci_bus_id = TextOf(other.pci_bus_id),
                         .has_nccl = other.has_nccl,
                         .wish = other.wish,
                         .deterministic = other.deterministic});
    }
    return absl::OkStatus();
  }

  Made MakeNccl() {
    RETURN_IF_ERROR(nccl_.status());
    return MakeNcclCommunicator(*nccl_, mine_, {}, group_);
  }

  Made Report(const WireChoice& choice, LinkUse use, Made made) const {
    const std::string_view what = use == LinkUse::kLayers ? "layers" : "stages";
    RETURN_IF_ERROR(made.status());
    if (group_.rank() == 0) {
      LogInfo(absl::StrCat("wire of the ", std::string(what), ", ", group_.size(),
                           " ranks: ", std::string((*made)->name()),
                           choice.large_by_nccl ? ", large sums by nccl" : "", " (", choice.reason,
                           ")"));
    }
    return made;
  }

  Communicator& group_;
  Ops& ops_;
  const GpuLinkOptions options_;
  absl::StatusOr<NcclApi> nccl_;
  NcclPlace mine_;
  std::vector<WirePlace> places_;
};

}  // namespace

DeviceLink LinkGpus(Ops& ops, const GpuLinkOptions& options) {
  return [&ops, options](Communicator& group, LinkUse use) -> Made {
    if (group.size() == 1) return LinkThroughHost(ops.memory())(group, use);
    return GpuGroup(group, ops, options).Link(use);
  };
}

}  // namespace trireme
