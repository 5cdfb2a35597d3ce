#include "kernels/cuda/rms_norm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "tests/kernels/cuda/device_array.h"

namespace trireme::cuda {
namespace {

std::vector<float> Random(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

struct Case {
  int64_t rows, cols;
  bool delta, bias;
};

class RmsNormOf : public testing::TestWithParam<Case> {};

TEST_P(RmsNormOf, IsTheFormulaInDoubles) {
  const auto [rows, cols, has_delta, has_bias] = GetParam();
  const size_t n = static_cast<size_t>(rows * cols);
  const std::vector<float> x = Random(n, 1), delta = Random(n, 2),
                           bias = Random(static_cast<size_t>(cols), 3),
                           weight = Random(static_cast<size_t>(cols), 4);
  const DeviceArray<float> d_x(x), d_delta(delta), d_bias(bias), d_weight(weight), out(n);
  RmsNorm({.hidden = d_x.data(),
           .delta = has_delta ? d_delta.data() : nullptr,
           .bias = has_bias ? d_bias.data() : nullptr,
           .weight = d_weight.data(),
           .eps = 1e-5f,
           .out = out.data(),
           .rows = rows,
           .cols = cols});
  const std::vector<float> got = out.ToHost(), hidden = d_x.ToHost();
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    double squares = 0;
    for (size_t i = row * static_cast<size_t>(cols); i < (row + 1) * static_cast<size_t>(cols);
         ++i) {
      float h = x[i];
      if (has_delta) h += delta[i];
      if (has_delta && has_bias) h += bias[i % static_cast<size_t>(cols)];
      ASSERT_EQ(hidden[i], h);
      squares += double{h} * h;
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(cols) + 1e-5);
    for (size_t i = row * static_cast<size_t>(cols); i < (row + 1) * static_cast<size_t>(cols);
         ++i) {
      const double expected = hidden[i] * scale * weight[i % static_cast<size_t>(cols)];
      ASSERT_NEAR(got[i], expected, 1e-6 + 2e-6 * std::fabs(expected)) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsNormOf,
                         testing::Values(Case{1, 1, false, false}, Case{3, 31, false, false},
                                         Case{2, 64, true, false}, Case{5, 257, true, true},
                                         Case{2, 1024, false, false}, Case{1, 4099, true, true},
                                         Case{9, 128, true, true}, Case{19, 4, false, false},
                                         Case{3, 252, true, true}, Case{17, 256, false, false},
                                         Case{2, 260, true, true}, Case{3, 4096, true, true},
                                         Case{2, 5120, true, false}, Case{1, 16384, true, true},
                                         Case{1, 16388, true, true}));

// A row's bits are those it has alone; `out` may be `hidden`.
TEST(RmsNorm, RowsDoNotDependOnOthers) {
  for (const int64_t cols : {128, 896, 4096, 4097}) {
    constexpr int64_t kRows = 10;
    const std::vector<float> x = Random(static_cast<size_t>(kRows * cols), 1),
                             weight = Random(static_cast<size_t>(cols), 2);
    const DeviceArray<float> all(x), d_weight(weight);
    RmsNorm({.hidden = all.data(),
             .weight = d_weight.data(),
             .eps = 1e-6f,
             .out = all.data(),
             .rows = kRows,
             .cols = cols});
    const std::vector<float> together = all.ToHost();
    for (int64_t row = 0; row < kRows; ++row) {
      const DeviceArray<float> one(
          std::vector<float>(x.begin() + row * cols, x.begin() + (row + 1) * cols));
      RmsNorm({.hidden = one.data(),
               .weight = d_weight.data(),
               .eps = 1e-6f,
               .out = one.data(),
               .rows = 1,
               .cols = cols});
      const std::vector<float> alone = one.ToHost();
      EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + row * cols)) << cols;
    }
  }
}

}  // namespace
}  // namespace trireme::cuda
