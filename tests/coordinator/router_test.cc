#include "coordinator/router.h"

#include <gtest/gtest.h>

#include <vector>

namespace trireme {
namespace {

Route Gang(uint64_t tokens_outstanding, uint32_t cached_tokens = 0) {
  return {.fits = true, .cached_tokens = cached_tokens, .tokens_outstanding = tokens_outstanding};
}

std::optional<size_t> Choose(const std::vector<Route>& routes) { return ChooseRoute(routes); }

TEST(RouterTest, TakesTheGangWithLeastToCompute) {
  EXPECT_EQ(Choose({Gang(100)}), 0u);
  EXPECT_EQ(Choose({Gang(300), Gang(100), Gang(200)}), 1u);
  EXPECT_EQ(Choose({Gang(100), Gang(100)}), 0u);
}

TEST(RouterTest, PrefersThePrefixCacheUntilItsGangHasFarMoreToCompute) {
  EXPECT_EQ(Choose({Gang(100), Gang(900, 128)}), 1u);
  EXPECT_EQ(Choose({Gang(100), Gang(1200, 128)}), 0u);
  EXPECT_EQ(Choose({Gang(100, 64), Gang(100, 128)}), 1u);
  EXPECT_EQ(Choose({Gang(500, 64), Gang(400, 64)}), 1u);
  // As dear: the one with less to compute.
  EXPECT_EQ(Choose({Gang(8 * 128, 128), Gang(0)}), 1u);
}

TEST(RouterTest, TakesOnlyWhatFits) {
  EXPECT_EQ(Choose({}), std::nullopt);
  EXPECT_EQ(Choose({{.fits = false, .cached_tokens = 0, .tokens_outstanding = 0}}), std::nullopt);
  EXPECT_EQ(Choose({{.fits = false, .cached_tokens = 512, .tokens_outstanding = 0}, Gang(9000)}),
            1u);
}

}  // namespace
}  // namespace trireme
