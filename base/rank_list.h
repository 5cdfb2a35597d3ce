#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace trireme {

// For messages: "rank 2", "ranks 0, 1, 2, 5 and 6 more".
std::string RankList(std::span<const uint32_t> ranks);

}  // namespace trireme
