// Quantised weights: the values of packed blocks against the gguf package's
// (tools/make_quant_golden.py), products against their formula in double precision, and every
// variant and batch bit for bit.

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "kernels/ops.h"
#include "tests/kernels/quant_golden.h"
#include "tests/kernels/reference.h"

namespace trireme {
namespace {

class QuantTest : public testing::TestWithParam<DType> {};

TEST_P(QuantTest, PackedValuesAreThoseOfTheReference) {
  const Stored stored(GetParam());
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 512}, {96, 416}, {256, 288}}) {
    Weight weight;
    const auto packed = stored.Pack(37, begin, end, weight);
    const std::vector<float> values = ToFloats(weight);
    for (int64_t r = 0; r < weight.rows; ++r) {
      for (int64_t c = 0; c < weight.cols; ++c) {
        ASSERT_EQ(values[r * weight.cols + c], stored.Value(r, begin + c)) << r << " " << c;
      }
    }
  }
}

TEST_P(QuantTest, EveryVariantReadsTheSameRows) {
  const Stored stored(GetParam());
  Weight weight;
  const auto packed = stored.Pack(21, 32, 512, weight);
  const std::vector<float> want = ToFloats(weight);
  StepBatch batch;
  for (int i = 0; i < 21; ++i) batch.ids.push_back(i);
  for (const std::string& variant : CpuVariants()) {
    std::vector<float> got(want.size());
    (*MakeCpuOps(1, variant))->Embedding(batch, weight, 0, 1.0f, got);
    EXPECT_EQ(got, want) << variant;
  }
}

// x rounded to 8 bits for each 32, as the operation's contract says.
std::vector<double> Rounded(const std::vector<float>& x) {
  std::vector<double> rounded(x.size());
  for (size_t k = 0; k < x.size(); k += 32) {
    float largest = 0;
    for (size_t i = k; i < k + 32; ++i) largest = std::max(largest, std::abs(x[i]));
    for (size_t i = k; i < k + 32; ++i) {
      rounded[i] = std::nearbyint(x[i] * (127.0f / largest)) * (largest / 127.0);
    }
  }
  return rounded;
}

TEST_P(QuantTest, LinearMatchesFormulaForEveryVariantAndShape) {
  const Stored stored(GetParam());
  for (const auto& [tokens, rows, begin, end, groups] :
       {std::tuple<int64_t, int64_t, int64_t, int64_t, int>{1, 40, 0, 512, 1},
        {3, 16, 0, 512, 8},
        {5, 33, 128, 384, 2},
        {130, 50, 224, 480, 4}}) {
    Weight weight;
    const auto packed = stored.Pack(rows, begin, end, weight);
    const std::vector<float> x = RandomFloats(tokens * weight.cols, 7);
    const std::vector<double> rounded = Rounded(x);
    const std::vector<float> bias = RandomFloats(rows, 8);
    std::vector<float> scalar;
    for (const std::string& variant : CpuVariants()) {
      std::vector<float> y(tokens * rows);
      (*MakeCpuOps(2, variant))->Linear(x, weight, bias, groups, y);
      double worst = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < rows; ++r) {
          double sum = 0;
          double scale = 1;
          for (int64_t k = 0; k < weight.cols; ++k) {
            const double term = rounded[t * weight.cols + k] * stored.Value(r, begin + k);
            sum += term;
            scale += std::abs(term);
          }
          worst = std::max(worst, std::abs(sum + bias[r] - y[t * rows + r]) / scale);
        }
      }
      EXPECT_LT(worst, 1e-6) << variant << " " << tokens;
      if (scalar.empty()) scalar = y;
      EXPECT_TRUE(SameBits(scalar, y)) << variant << " " << tokens;
    }
  }
}

// Each token by itself, each half of the columns by itself (as two tensor parallel ranks have
// them), and several products at once: the same bits as all together.
TEST_P(QuantTest, BitsDependOnNothingAround) {
  const Stored stored(GetParam());
  const int64_t tokens = 103;
  const int64_t rows = 39;
  const int64_t cols = 512;
  Weight weight;
  const auto packed = stored.Pack(rows, 0, cols, weight);
  const std::vector<float> x = RandomFloats(tokens * cols, 9);
  for (const std::string& variant : CpuVariants()) {
    const auto ops = *MakeCpuOps(2, variant);
    std::vector<float> all(tokens * rows);
    ops->Linear(x, weight, {}, 8, all);
    for (const int64_t count : {1, 2, 3, 4, 11}) {
      std::vector<float> part(count * rows);
      for (int64_t t = 0; t + count <= tokens; t += count) {
        ops->Linear(std::span(x).subspan(t * cols, count * cols), weight, {}, 8, part);
        ASSERT_EQ(std::memcmp(part.data(), all.data() + t * rows, part.size() * 4), 0) << count;
      }
    }
    Weight half[2];
    std::vector<float> sums[2];
    std::vector<std::byte> memory[2];
    for (int i = 0; i < 2; ++i) {
      memory[i] = stored.Pack(rows, i * cols / 2, (i + 1) * cols / 2, half[i]);
      std::vector<float> own;
      for (int64_t t = 0; t < tokens; ++t) {
        const auto from = x.begin() + t * cols + i * cols / 2;
        own.insert(own.end(), from, from + cols / 2);
      }
      sums[i].resize(all.size());
      ops->Linear(own, half[i], {}, 4, sums[i]);
    }
    for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], sums[0][i] + sums[1][i]);

    const Stored other(DType::kQ6K);
    Weight second;
    const auto second_packed = other.Pack(20, 0, cols, second);
    std::vector<float> a(all.size());
    std::vector<float> b(tokens * 20);
    std::vector<float> b_alone(b.size());
    const Ops::Product products[] = {{.weight = weight, .bias = {}, .y = a},
                                     {.weight = second, .bias = {}, .y = b}};
    ops->Linear(x, products, 8);
    ops->Linear(x, second, {}, 8, b_alone);
    EXPECT_TRUE(SameBits(a, all) && SameBits(b, b_alone));
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantTest, testing::ValuesIn(kQuantTypes),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

}  // namespace
}  // namespace trireme
