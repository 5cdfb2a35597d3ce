#include "coordinator/router.h"

#include <tuple>

namespace trireme {
namespace {

// Tokens of others that may be computed first rather than one token once more: those are computed
// many at a time, most of them in steps that the request takes part in.
constexpr int64_t kWaitPerCachedToken = 8;

}  // namespace

std::optional<size_t> ChooseRoute(std::span<const Route> routes) {
  std::optional<size_t> best;
  const auto cost = [&](size_t index) {
    const Route& route = routes[index];
    const auto outstanding = static_cast<int64_t>(route.tokens_outstanding);
    return std::tuple(outstanding - kWaitPerCachedToken * route.cached_tokens, outstanding);
  };
  for (size_t index = 0; index < routes.size(); ++index) {
    if (!routes[index].fits) continue;
    if (!best.has_value() || cost(index) < cost(*best)) best = index;
  }
  return best;
}

}  // namespace trireme
