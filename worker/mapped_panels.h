#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/panel_source.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/placed_slice.h"

namespace trireme {

// --load mapped: a matrix that is packed as products use it, so that the first answer does not wait
// until all weights are written to memory. The first product that uses a panel has it in its own
// room, from where it does not leave the core's cache; the second one leaves it in its place. Rows
// that are looked up leave nothing: a table that is nothing else stays in its file. The bits are
// those of Weights::Load without it.
class MappedPanels final : public PanelSource {
 public:
  // Whether it can be: a packed matrix whose rows the checkpoint has as they are packed. Its other
  // weights may turn out to be refused only when they are read.
  static bool Fits(const PlacedSlice& placed);

  // `checkpoint` must outlive it. Refuses what Checkpoint::ReadBlocks refuses.
  static absl::StatusOr<std::unique_ptr<MappedPanels>> Make(const Checkpoint& checkpoint,
                                                            PlacedSlice placed);

  bool AllThere() const override;
  int64_t RoomBytes(int64_t count) const override;
  const std::byte* ForProduct(int64_t begin, int64_t count, std::span<std::byte> room) override;
  const std::byte* ForRow(int64_t panel, std::span<std::byte> room) override;

  // Bytes of its place that nobody has written yet.
  int64_t bytes_to_come() const;

 private:
  enum class State : uint8_t { kUnused, kUsed, kThere };

  MappedPanels(const Checkpoint& checkpoint, PlacedSlice placed);

  std::byte* PlaceOf(int64_t panel) const;
  void Pack(int64_t panel, std::span<std::byte> room, std::byte* to);

  const Checkpoint& checkpoint_;
  const TensorSlice slice_;
  PlacedSlice placed_;
  // A panel's is one thread's at a time: Ops meet between two products.
  std::vector<State> states_;
  std::atomic<int64_t> there_{0};
};

}  // namespace trireme
