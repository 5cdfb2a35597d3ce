// Routing of a mixture of experts against the CPU backend and a plain sort.

#include "kernels/cuda/moe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cuda/rows.h"
#include "kernels/ops.h"
#include "tests/kernels/cuda/device_array.h"
#include "tests/kernels/reference.h"

namespace trireme::cuda {
namespace {

void ExpectCpusChoices(const std::vector<float>& scores, int64_t n, int64_t k) {
  const int64_t tokens = static_cast<int64_t>(scores.size()) / n;
  std::vector<int32_t> ids(tokens * k);
  std::vector<float> weights(tokens * k);
  (*MakeCpuOps(1, "scalar"))->TopKSoftmax(scores, n, k, ids, weights);
  const DeviceArray<float> d_scores(scores), d_weights(weights.size());
  const DeviceArray<int32_t> d_ids(ids.size());
  TopKSoftmax({.scores = d_scores.data(),
               .tokens = tokens,
               .n = n,
               .k = k,
               .ids = d_ids.data(),
               .weights = d_weights.data()});
  EXPECT_EQ(d_ids.ToHost(), ids) << n << " " << k;
  const std::vector<float> got = d_weights.ToHost();
  for (int64_t t = 0; t < tokens; ++t) {
    double sum = 0;
    for (int64_t j = 0; j < k; ++j) {
      sum += std::exp(double{scores[t * n + ids[t * k + j]]} - scores[t * n + ids[t * k]]);
    }
    for (int64_t j = 0; j < k; ++j) {
      const double expected =
          std::exp(double{scores[t * n + ids[t * k + j]]} - scores[t * n + ids[t * k]]) / sum;
      if (std::isnan(expected)) continue;  // a NaN was chosen
      ASSERT_NEAR(got[t * k + j], expected, 1e-6 * expected + 1e-37);
    }
  }
}

TEST(Moe, TopKSoftmaxChoosesAsTheCpuDoes) {
  for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {8, 2}, {31, 31}, {33, 4}, {64, 8}, {128, 8}, {256, 9}}) {
    for (const int64_t tokens : {1, 13}) {
      ExpectCpusChoices(RandomFloats(tokens * n, 1, 2.0f), n, k);
      std::vector<float> ties(tokens * n);
      for (size_t i = 0; i < ties.size(); ++i) ties[i] = static_cast<float>(i * 7 % 5);
      ExpectCpusChoices(ties, n, k);
    }
  }
}

TEST(Moe, TopKSoftmaxOfNaNsAndInfinities) {
  ExpectCpusChoices({NAN, 1, NAN, -2, 3, -INFINITY, 0.0f, -0.0f}, 8, 5);
  ExpectCpusChoices(std::vector<float>(40, NAN), 40, 3);
  ExpectCpusChoices(std::vector<float>(40, -INFINITY), 40, 40);
}

struct Routed {
  std::vector<int32_t> first_row, token_of_row, row_of;
};

Routed ByPlainSort(const std::vector<int32_t>& ids, const std::vector<int32_t>& positions,
                   int64_t k, int64_t experts) {
  std::vector<int32_t> choices;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (positions[i / k] >= 0) choices.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(choices.begin(), choices.end(),
                   [&](int32_t a, int32_t b) { return ids[a] < ids[b]; });
  Routed routed;
  routed.token_of_row.assign(ids.size(), -1);
  routed.row_of.assign(ids.size(), -1);
  for (int64_t e = 0; e <= experts; ++e) {
    routed.first_row.push_back(static_cast<int32_t>(std::count_if(
        choices.begin(), choices.end(), [&](int32_t choice) { return ids[choice] < e; })));
  }
  for (size_t row = 0; row < choices.size(); ++row) {
    routed.token_of_row[row] = static_cast<int32_t>(choices[row] / k);
    routed.row_of[choices[row]] = static_cast<int32_t>(row);
  }
  return routed;
}

TEST(Moe, RouteIsAStableSort) {
  for (const int64_t experts : {1, 8, 33, 128}) {
    for (const int64_t tokens : {1, 5, 100}) {
      const int64_t k = std::min<int64_t>(experts, 3);
      std::vector<int32_t> ids(tokens * k), positions(tokens);
      for (int64_t t = 0; t < tokens; ++t) {
        positions[t] = static_cast<int32_t>(t % 7 == 6 ? -1 : t);
        for (int64_t j = 0; j < k; ++j) {  // some experts get nothing
          ids[t * k + j] = static_cast<int32_t>((t * t * 5 + j * 11) % experts / 2 * 2);
        }
      }
      const DeviceArray<int32_t> d_ids(ids), d_positions(positions), first_row(experts + 1),
          token_of_row(ids.size()), row_of(ids.size());
      for (const bool padded : {true, false}) {
        if (!padded) std::fill(positions.begin(), positions.end(), 0);
        Route({.ids = d_ids.data(),
               .positions = padded ? d_positions.data() : nullptr,
               .tokens = tokens,
               .k = k,
               .experts = experts,
               .first_row = first_row.data(),
               .token_of_row = token_of_row.data(),
               .row_of = row_of.data()});
        const Routed expected = ByPlainSort(ids, positions, k, experts);
        EXPECT_EQ(first_row.ToHost(), expected.first_row);
        EXPECT_EQ(token_of_row.ToHost(), expected.token_of_row);
        EXPECT_EQ(row_of.ToHost(), expected.row_of);
      }
    }
  }
}

TEST(Moe, CombineAddsInTheOrderOfChoices) {
  constexpr int64_t kTokens = 6, kChoices = 3;
  for (const int64_t cols : {1, 4, 515, 2048}) {
    const std::vector<float> y = RandomFloats(kTokens * kChoices * cols, 1),
                             weights = RandomFloats(kTokens * kChoices, 2);
    std::vector<int32_t> row_of(kTokens * kChoices);
    std::iota(row_of.begin(), row_of.end(), 0);
    std::reverse(row_of.begin(), row_of.end());
    for (int64_t j = 0; j < kChoices; ++j) row_of[2 * kChoices + j] = -1;  // padding
    const DeviceArray<float> d_y(y), d_weights(weights), out(kTokens * cols);
    const DeviceArray<int32_t> d_row_of(row_of);
    Combine({.y = d_y.data(),
             .row_of = d_row_of.data(),
             .weights = d_weights.data(),
             .out = out.data(),
             .tokens = kTokens,
             .k = kChoices,
             .cols = cols});
    std::vector<float> expected(kTokens * cols);
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t j = 0; j < kChoices && t != 2; ++j) {
        for (int64_t i = 0; i < cols; ++i) {
          expected[t * cols + i] +=
              weights[t * kChoices + j] * y[row_of[t * kChoices + j] * cols + i];
        }
      }
    }
    EXPECT_TRUE(SameBits(out.ToHost(), expected)) << cols;
  }
}

}  // namespace
}  // namespace trireme::cuda
