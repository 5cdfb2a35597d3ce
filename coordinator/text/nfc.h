#pragma once

#include <string>
#include <string_view>

namespace trireme {

// Unicode Normalization Form C of valid UTF-8 text (UAX #15): canonical decomposition, canonical
// ordering, composition. Time is O(n log n) for any input, also for endless runs of combining
// marks.
std::string NormalizeNfc(std::string_view text);

}  // namespace trireme
