#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace trireme {

// Packs the panels of a matrix (kernels/quant/packed.h) when they are used, where they do not all
// lie at Weight::data from the start. Threads may ask for different panels at once.
class PanelSource {
 public:
  virtual ~PanelSource() = default;

  // All panels are at Weight::data, for good.
  virtual bool AllThere() const = 0;

  // Bytes of room for so many panels.
  virtual int64_t RoomBytes(int64_t count) const = 0;
  // For a product: panels [begin, begin + count), one behind the other, in `room` or where they
  // stay. What is in the room holds until it is used again.
  virtual const std::byte* ForProduct(int64_t begin, int64_t count, std::span<std::byte> room) = 0;
  // For a row of it alone.
  virtual const std::byte* ForRow(int64_t panel, std::span<std::byte> room) = 0;
};

}  // namespace trireme
