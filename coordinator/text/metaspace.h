#pragma once

#include <string_view>

namespace trireme {

// What SentencePiece writes for a space, so that tokens show it: U+2581, "▁".
inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";

}  // namespace trireme
