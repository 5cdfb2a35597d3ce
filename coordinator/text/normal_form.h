#pragma once

#include <string>
#include <string_view>

namespace trireme {

// The Unicode Normalization Forms (UAX #15): canonical (C, D) or compatibility (KC, KD)
// decomposition, canonical ordering, and for C and KC composition.
enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` is valid UTF-8. Time is O(n log n) for any input, also for endless runs of combining
// marks.
std::string Normalize(std::string_view text, NormalForm form);

}  // namespace trireme
