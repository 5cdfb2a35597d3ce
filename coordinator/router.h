#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace trireme {

// What one gang has to offer a request.
struct Route {
  bool fits = false;                // it can compute the request to its end
  uint32_t cached_tokens = 0;       // of the request, which it need not compute
  uint64_t tokens_outstanding = 0;  // of others, which it is still to compute
};

// The gang for a request, as an index; nothing if none fits. It is the one with the longest part of
// it in the prefix cache, unless so much more is to be computed there than elsewhere that computing
// that part anew is the lesser evil. Among equals, the one with the least to compute; then the
// first. Pure.
std::optional<size_t> ChooseRoute(std::span<const Route> routes);

}  // namespace trireme
