#include "worker/mapped_panels.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "worker/read_ahead.h"

namespace trireme {

bool MappedPanels::Fits(const PlacedSlice& placed) {
  switch (placed.stored) {
    case DType::kInt8:
    case DType::kInt4Zero:
    case DType::kFp8:
      return false;
    default:
      return placed.layout.has_value();
  }
}

absl::StatusOr<std::unique_ptr<MappedPanels>> MappedPanels::Make(const Checkpoint& checkpoint,
                                                                 PlacedSlice placed) {
  RETURN_IF_ERROR(checkpoint.ReadBlocks(*placed.slice, /*first_row=*/0, /*rows=*/0, {}));
  return std::unique_ptr<MappedPanels>(new MappedPanels(checkpoint, std::move(placed)));
}

MappedPanels::MappedPanels(const Checkpoint& checkpoint, PlacedSlice placed)
    : checkpoint_(checkpoint),
      slice_(*placed.slice),
      placed_(std::move(placed)),
      states_(static_cast<size_t>(placed_.layout->panels())) {
  placed_.slice = &slice_;
}

bool MappedPanels::AllThere() const {
  return there_.load(std::memory_order_relaxed) == placed_.layout->panels();
}

int64_t MappedPanels::bytes_to_come() const {
  return (placed_.layout->panels() - there_.load(std::memory_order_relaxed)) *
         placed_.layout->panel_bytes;
}

std::byte* MappedPanels::PlaceOf(int64_t panel) const {
  return placed_.data + panel * placed_.layout->panel_bytes;
}

int64_t MappedPanels::RoomBytes(int64_t count) const {
  return count * placed_.layout->panel_bytes + placed_.room_bytes();
}

// Its rows come through the end of the room.
void MappedPanels::Pack(int64_t panel, std::span<std::byte> room, std::byte* to) {
  const int64_t row = panel * quant::kPanelRows;
  const int64_t rows = std::min<int64_t>(quant::kPanelRows, slice_.rows.size() - row);
  // A whole panel has all its bytes written.
  if (rows < quant::kPanelRows)
    std::memset(to, 0, static_cast<size_t>(placed_.layout->panel_bytes));
  const auto rows_room = room.last(static_cast<size_t>(placed_.room_bytes()));
  CHECK(ReadRows(checkpoint_, placed_, row, rows, rows_room, to).ok());  // Make has asked
}

const std::byte* MappedPanels::ForProduct(int64_t begin, int64_t count, std::span<std::byte> room) {
  const auto states =
      std::span(states_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
  const bool again = std::find(states.begin(), states.end(), State::kUnused) == states.end();
  for (int64_t i = 0; i < count; ++i) {
    State& state = states[static_cast<size_t>(i)];
    if (!again) {
      Pack(begin + i, room, room.data() + i * placed_.layout->panel_bytes);
      if (state == State::kUnused) state = State::kUsed;
    } else if (state == State::kUsed) {
      Pack(begin + i, room, PlaceOf(begin + i));
      state = State::kThere;
      if (there_.fetch_add(1, std::memory_order_relaxed) + 1 < placed_.layout->panels()) continue;
      // The shard is to be in memory once.
      for (const auto& stretch : placed_.stretches) DoneWith(stretch);
    }
  }
  return again ? PlaceOf(begin) : room.data();
}

const std::byte* MappedPanels::ForRow(int64_t panel, std::span<std::byte> room) {
  if (states_[static_cast<size_t>(panel)] == State::kThere) return PlaceOf(panel);
  Pack(panel, room, room.data());
  return room.data();
}

}  // namespace trireme
