#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace trireme {

// What moves data between the GPUs of a group of ranks (docs/cuda.md).
enum class Wire : uint8_t { kAuto, kNccl, kIpc, kStaged };

// "auto", "nccl", "ipc" or "staged"; INVALID_ARGUMENT for another word.
absl::StatusOr<Wire> ParseWire(std::string_view text);
std::string_view WireName(Wire wire);

// What a group is for: the sums and gathers of layers, or handing activations from stage to stage.
enum class LinkUse : uint8_t { kLayers, kStages };

// Where a rank computes, what it can use, and what it was told: --wire and --deterministic.
struct WirePlace {
  std::string host;        // the machine's name, for messages
  std::string machine_id;  // the same on all of a machine's containers, on no other machine
  std::string pci_bus_id;  // of the GPU
  bool has_nccl = false;
  bool has_ipc = true;  // false once it has turned out that GPUs cannot address each other's memory
  Wire wish = Wire::kAuto;
  bool deterministic = false;
};

struct WireChoice {
  Wire wire = Wire::kStaged;   // never kAuto
  bool large_by_nccl = false;  // of kIpc: sums too large for one launch
  std::string reason;          // for people
};

// The most ranks that CUDA IPC connects; it takes a power of two.
inline constexpr size_t kIpcRanksMax = 8;

// The wire of a group, by the places of its ranks in order: the same on all of them. What layers
// sum goes by IPC where the group is on one host, by NCCL otherwise, each rank with a GPU of its
// own; what neither can do is staged. `deterministic` allows only the order of docs/decisions/0001,
// which NCCL does not keep. IPC does not hand activations from stage to stage; that a wish for it
// leaves to NCCL or the host. FAILED_PRECONDITION: a wish that these places cannot have.
// INVALID_ARGUMENT: wishes that differ or contradict each other.
absl::StatusOr<WireChoice> ChooseWire(std::span<const WirePlace> places, LinkUse use);

}  // namespace trireme
