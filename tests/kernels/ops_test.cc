// Every operation of every CPU variant against its formula in double precision, and every variant
// against every other bit for bit.

#include "kernels/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>

#include "kernels/quant/packed.h"
#include "tests/kernels/cpu_step.h"
#include "tests/kernels/reference.h"

namespace trireme {
namespace {

class OpsTest : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Ops> Make(int threads) { return *MakeCpuOps(threads, GetParam()); }
};

Weight Matrix(const void* data, DType dtype, int64_t rows, int64_t cols) {
  return {.data = data, .dtype = dtype, .rows = rows, .cols = cols, .row_stride = cols};
}

// A bfloat16 matrix in panels, as products take it.
struct PackedBf16 {
  PackedBf16(const std::vector<uint16_t>& values, int64_t rows, int64_t cols) {
    const quant::PackedLayout layout(DType::kBF16, rows, cols, 0);
    memory.resize(layout.bytes());
    for (int64_t panel = 0; panel < layout.panels(); ++panel) {
      quant::PackPanel(DType::kBF16, layout, panel,
                       reinterpret_cast<const std::byte*>(values.data() + panel * 16 * cols),
                       2 * cols, memory.data() + panel * layout.panel_bytes);
    }
    weight = Matrix(memory.data(), DType::kBF16, rows, cols);
    weight.packed = true;
  }
  std::vector<std::byte> memory;
  Weight weight;
};

TEST(PackedBf16Test, HasEveryValueInItsPlace) {
  for (const int64_t rows : {1, 3, 4, 6, 16, 21}) {
    for (const int64_t cols : {1, 2, 7, 8, 9, 24, 30}) {
      std::vector<uint16_t> values(rows * cols);
      std::iota(values.begin(), values.end(), uint16_t{0x3f80});  // 1 and the next ones
      const PackedBf16 packed(values, rows, cols);
      const std::vector<float> floats = ToFloats(packed.weight);
      for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_EQ(std::bit_cast<uint32_t>(floats[i]), uint32_t{values[i]} << 16)
            << rows << " x " << cols << ": " << i;
      }
    }
  }
}

std::vector<float> RoundedToBf16(std::vector<float> values) {
  for (float& value : values) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t half = 0x7fff + ((bits >> 16) & 1);  // to the nearest, ties to even
    value = std::bit_cast<float>((bits + half) & 0xffff0000u);
  }
  return values;
}

// Largest |got - want| over the scale of a sum of n products of unit normals.
double WorstLinearError(const std::vector<float>& x, const std::vector<double>& w,
                        const std::vector<float>& y, int64_t tokens, int64_t rows, int64_t cols) {
  double worst = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t k = 0; k < cols; ++k) {
        sum += static_cast<double>(x[t * cols + k]) * w[r * cols + k];
      }
      worst = std::max(worst, std::abs(sum - y[t * rows + r]) / std::sqrt(cols));
    }
  }
  return worst;
}

struct LinearCase {
  int64_t tokens, rows, cols;
  int groups;
};

TEST_P(OpsTest, LinearMatchesFormulaForEveryTypeAndShape) {
  const std::vector<LinearCase> cases = {{1, 1, 1, 1},    {1, 5, 7, 1},     {3, 17, 33, 1},
                                         {9, 50, 64, 8},  {8, 24, 256, 4},  {70, 31, 96, 2},
                                         {2, 100, 40, 8}, {67, 30, 1096, 1}};
  for (const LinearCase& c : cases) {
    const std::vector<float> x = RandomFloats(c.tokens * c.cols, 1);
    const std::vector<float> f32 = RandomFloats(c.rows * c.cols, 2);
    const std::vector<uint16_t> bf16 = ToBf16(f32);
    std::vector<uint16_t> f16(f32.size());
    for (size_t i = 0; i < f16.size(); ++i) {
      f16[i] = static_cast<uint16_t>((i * 2654435761u) >> 7) & 0xBBFF;  // |values| below 1
    }
    std::vector<double> wide(f32.size());
    const auto check = [&](const Weight& weight, const std::vector<float>& taken, int groups) {
      for (const int threads : {1, 3}) {
        std::vector<float> y(c.tokens * c.rows, NAN);
        Make(threads)->Linear(x, weight, {}, groups, y);
        EXPECT_LT(WorstLinearError(taken, wide, y, c.tokens, c.rows, c.cols), 3e-6)
            << DTypeName(weight.dtype) << " " << c.tokens << "x" << c.rows << "x" << c.cols;
      }
    };
    std::copy(f32.begin(), f32.end(), wide.begin());
    check(Matrix(f32.data(), DType::kF32, c.rows, c.cols), x, c.groups);
    std::transform(bf16.begin(), bf16.end(), wide.begin(), Bf16ToDouble);
    check(PackedBf16(bf16, c.rows, c.cols).weight, RoundedToBf16(x),
          c.cols / 2 % c.groups == 0 ? c.groups : 1);
    std::transform(f16.begin(), f16.end(), wide.begin(), HalfToDouble);
    check(Matrix(f16.data(), DType::kF16, c.rows, c.cols), x, c.groups);
  }
}

TEST_P(OpsTest, LinearBitsDependOnNeitherBatchNorThreads) {
  constexpr int64_t kTokens = 71, kRows = 75, kCols = 4 * 700;
  const std::vector<float> x = RandomFloats(kTokens * kCols, 3);
  const std::vector<uint16_t> w = ToBf16(RandomFloats(kRows * kCols, 4));
  const PackedBf16 packed(w, kRows, kCols);
  const Weight& weight = packed.weight;
  std::vector<float> alone(kTokens * kRows);
  const auto one = Make(1);
  for (int64_t t = 0; t < kTokens; ++t) {
    one->Linear(std::span(x).subspan(t * kCols, kCols), weight, {}, 4,
                std::span(alone).subspan(t * kRows, kRows));
  }
  for (const int threads : {1, 2, 5}) {
    std::vector<float> together(kTokens * kRows);
    Make(threads)->Linear(x, weight, {}, 4, together);
    EXPECT_TRUE(SameBits(alone, together)) << threads << " threads";
  }
}

// The heart of decision 0001: a rank's half of the columns, summed as half of the groups, plus the
// other half's, is the whole.
TEST_P(OpsTest, LinearSplitOverColumnsAddsUpToTheSameBits) {
  constexpr int64_t kTokens = 11, kRows = 40, kCols = 8 * 24;
  const std::vector<float> x = RandomFloats(kTokens * kCols, 5);
  const std::vector<float> w = RandomFloats(kRows * kCols, 6);
  const auto ops = Make(2);
  std::vector<float> whole(kTokens * kRows);
  ops->Linear(x, Matrix(w.data(), DType::kF32, kRows, kCols), {}, 8, whole);
  for (const int parts : {2, 4, 8}) {
    const int64_t cols = kCols / parts;
    std::vector<std::vector<float>> sums;
    for (int p = 0; p < parts; ++p) {
      std::vector<float> x_part;
      for (int64_t t = 0; t < kTokens; ++t) {
        const auto row = x.begin() + t * kCols + p * cols;
        x_part.insert(x_part.end(), row, row + cols);
      }
      const Weight slice{.data = w.data() + p * cols,
                         .dtype = DType::kF32,
                         .rows = kRows,
                         .cols = cols,
                         .row_stride = kCols};
      sums.emplace_back(kTokens * kRows);
      ops->Linear(x_part, slice, {}, 8 / parts, sums.back());
    }
    for (int width = 1; width < parts; width *= 2) {
      for (int p = 0; p < parts; p += 2 * width) {
        for (size_t i = 0; i < whole.size(); ++i) sums[p][i] += sums[p + width][i];
      }
    }
    EXPECT_TRUE(SameBits(whole, sums[0])) << parts << " parts";
  }
}

TEST_P(OpsTest, LinearAddsBias) {
  const std::vector<float> x = {1, 2};
  const std::vector<float> w = {3, 4, 5, 6};
  const std::vector<float> bias = {10, 20};
  std::vector<float> y(2);
  Make(1)->Linear(x, Matrix(w.data(), DType::kF32, 2, 2), bias, 1, y);
  EXPECT_EQ(y, (std::vector<float>{21, 37}));
}

TEST_P(OpsTest, EmbeddingGivesRowsOrZeros) {
  const std::vector<float> table = {1, 2, -0.0f, 4};
  std::vector<float> out(6, NAN);
  StepBatch batch;
  batch.ids = {11, 9, 10};
  Make(2)->Embedding(batch, Matrix(table.data(), DType::kF32, 2, 2), 10, 1.0f, out);
  EXPECT_TRUE(SameBits(out, {0.0f, 4, 0, 0, 1, 2}));
  Make(2)->Embedding(batch, Matrix(table.data(), DType::kF32, 2, 2), 10, 2.5f, out);
  EXPECT_TRUE(SameBits(out, {0.0f, 10, 0, 0, 2.5f, 5}));
}

TEST_P(OpsTest, RmsNormMatchesFormula) {
  for (const int64_t n : {1, 15, 64, 100}) {
    constexpr int64_t kRows = 5;
    std::vector<float> x = RandomFloats(kRows * n, 7, 3.0f);
    const std::vector<float> weight = RandomFloats(n, 8);
    std::vector<float> out(kRows * n);
    Make(2)->Materialize(Ops::Normed{
        .hidden = x, .delta = {}, .bias = {}, .weight = weight, .eps = 1e-5f, .out = out});
    for (int64_t row = 0; row < kRows; ++row) {
      double squares = 0;
      for (int64_t i = 0; i < n; ++i) squares += std::pow(x[row * n + i], 2);
      const double scale = 1 / std::sqrt(squares / n + 1e-5);
      for (int64_t i = 0; i < n; ++i) {
        EXPECT_NEAR(out[row * n + i], x[row * n + i] * scale * weight[i], 2e-6);
      }
    }
  }
}

TEST_P(OpsTest, RopeRotatesPairs) {
  constexpr int64_t kTokens = 3, kHeads = 2, kHalf = 20;
  std::vector<float> x = RandomFloats(kTokens * kHeads * 2 * kHalf, 9);
  const std::vector<float> before = x;
  StepBatch batch;
  const std::vector<int32_t> table = {0};
  for (int64_t t = 0; t < kTokens; ++t) {
    batch.ids.push_back(0);
    batch.places.push_back({.position = t, .block_table = table});
  }
  for (int64_t i = 0; i < kTokens * kHalf; ++i) {
    batch.local_rope.cos.push_back(std::cos(0.1f * i));
    batch.local_rope.sin.push_back(std::sin(0.1f * i));
  }
  KvLayer cache{.num_kv_heads = 1, .block_size = 16, .head_dim = 2 * kHalf};
  std::vector<std::byte> pages(2 * cache.page_bytes());
  cache.k = pages.data();
  cache.v = pages.data() + cache.page_bytes();
  std::vector<float> k(kTokens * 2 * kHalf);
  Make(2)->RopeStoreKv(x, k, k, batch, {.heads = kHeads, .local_rope = true}, cache);
  for (int64_t row = 0; row < kTokens * kHeads; ++row) {
    for (int64_t i = 0; i < kHalf; ++i) {
      const double angle = 0.1 * (row / kHeads * kHalf + i);
      const double a = before[row * 2 * kHalf + i];
      const double b = before[row * 2 * kHalf + kHalf + i];
      EXPECT_NEAR(x[row * 2 * kHalf + i], a * std::cos(angle) - b * std::sin(angle), 2e-6);
      EXPECT_NEAR(x[row * 2 * kHalf + kHalf + i], b * std::cos(angle) + a * std::sin(angle), 2e-6);
    }
  }
}

TEST_P(OpsTest, SiluMulMatchesFormulaOverTheWholeRange) {
  std::vector<float> gate;
  for (double g = -200; g <= 200; g += 0.37) gate.push_back(static_cast<float>(g));
  const std::vector<float> before = gate;
  std::vector<float> up(gate.size(), 2.0f);
  Make(2)->Materialize(Ops::Gated{.gate = gate, .up = up});
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = before[i];
    const double want = 2 * g / (1 + std::exp(-g));
    EXPECT_NEAR(gate[i], want, 1e-6 * std::max(1.0, std::abs(want))) << g;
  }
}

// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), where 1 + tanh(u) has to be written as
// 2 / (1 + e^-2u): for u near -20 a double keeps none of its digits.
TEST_P(OpsTest, GeluTanhMulMatchesFormulaOverTheWholeRange) {
  std::vector<float> gate = {0.0f, 1e-30f, 1e10f, -1e10f, 1e30f, -1e30f};
  for (double g = -20; g <= 20; g += 0.037) gate.push_back(static_cast<float>(g));
  const std::vector<float> before = gate;
  std::vector<float> up(gate.size(), 2.0f);
  Make(2)->Materialize(
      Ops::Gated{.activation = Ops::Gated::Activation::kGeluTanh, .gate = gate, .up = up});
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = before[i];
    const double u = std::sqrt(2 / std::acos(-1.0)) * (g + 0.044715 * g * g * g);
    const double want = 2 * g / (1 + std::exp(-2 * u));
    EXPECT_NEAR(gate[i], want, 1e-6 * std::max(1.0, std::abs(want))) << g;
  }
}

// A softmax over all in double precision, its k largest, made to sum to 1.
TEST_P(OpsTest, TopKSoftmaxMatchesFormula) {
  constexpr int64_t kTokens = 300;
  for (const int64_t n : {1, 4, 8, 60}) {
    for (const int64_t k : {int64_t{1}, std::min<int64_t>(n, 2), std::min<int64_t>(n, 8)}) {
      const std::vector<float> scores = RandomFloats(kTokens * n, 15, 3.0f);
      std::vector<int32_t> ids(kTokens * k, -1);
      std::vector<float> weights(kTokens * k);
      Make(3)->TopKSoftmax(scores, n, k, ids, weights);
      for (int64_t t = 0; t < kTokens; ++t) {
        std::vector<std::pair<double, int32_t>> all;  // minus the exponential: largest first
        for (int64_t i = 0; i < n; ++i) {
          all.emplace_back(-std::exp(static_cast<double>(scores[t * n + i])), i);
        }
        std::sort(all.begin(), all.end());
        double chosen = 0;
        for (int64_t j = 0; j < k; ++j) chosen -= all[j].first;
        for (int64_t j = 0; j < k; ++j) {
          EXPECT_EQ(ids[t * k + j], all[j].second);
          EXPECT_NEAR(weights[t * k + j], -all[j].first / chosen, 1e-6);
        }
      }
    }
  }
}

TEST_P(OpsTest, TopKSoftmaxTakesEqualScoresByIndexAndNansLast) {
  const std::vector<float> scores = {NAN, 1, 2, 2, NAN, NAN, NAN, NAN, INFINITY, 0, -INFINITY, 5};
  std::vector<int32_t> ids(6);
  std::vector<float> weights(6);
  Make(1)->TopKSoftmax(scores, 4, 2, ids, weights);
  EXPECT_EQ(ids, (std::vector<int32_t>{2, 3, 0, 1, 0, 3}));
  EXPECT_EQ(weights[0], 0.5f);
  EXPECT_EQ(weights[1], 0.5f);
  for (const float weight : weights) EXPECT_TRUE(weight >= 0 && weight <= 1) << weight;
}

TEST_P(OpsTest, NormOfASumHasTheBitsOfBoth) {
  for (const int64_t n : {1, 15, 64, 100}) {
    constexpr int64_t kRows = 5;
    const std::vector<float> hidden = RandomFloats(kRows * n, 7, 3.0f);
    const std::vector<float> delta = RandomFloats(kRows * n, 8);
    const std::vector<float> weight = RandomFloats(n, 9);
    for (const std::vector<float>& bias : {std::vector<float>(), RandomFloats(n, 10)}) {
      const auto ops = Make(2);
      std::vector<float> want_hidden = hidden, want(hidden.size());
      ops->AddResidual(want_hidden, delta, bias);
      Ops::Normed norm{.hidden = want_hidden,
                       .delta = {},
                       .bias = {},
                       .weight = weight,
                       .eps = 1e-5f,
                       .out = want};
      ops->Materialize(norm);
      std::vector<float> got_hidden = hidden, got(hidden.size(), NAN);
      norm.hidden = got_hidden;
      norm.delta = delta;
      norm.bias = bias;
      norm.out = got;
      ops->Materialize(norm);
      EXPECT_TRUE(SameBits(got_hidden, want_hidden)) << n;
      EXPECT_TRUE(SameBits(got, want)) << n;
    }
  }
}

// Products take rows on the way, in whatever form their weights want, as if they had been written.
TEST_P(OpsTest, ProductsOfMadeRowsHaveTheBitsOfWrittenOnes) {
  constexpr int64_t kRows = 48, kCols = 96;
  const std::vector<float> floats = RandomFloats(kRows * kCols, 1);
  const PackedBf16 bf16(ToBf16(floats), kRows, kCols);
  const Weight plain = Matrix(floats.data(), DType::kF32, kRows, kCols);
  const std::vector<float> norm = RandomFloats(kCols, 2), bias = RandomFloats(kCols, 3);
  for (const int64_t tokens : {1, 3, 90}) {
    const std::vector<float> a = RandomFloats(tokens * kCols, 4),
                             b = RandomFloats(tokens * kCols, 5);
    const auto run = [&](bool written, auto make_input) {
      std::vector<float> first = a, second = b, room(a.size());
      std::vector<float> y(tokens * kRows), z(y.size());
      const auto ops = Make(2);
      const auto input = make_input(first, second, room);
      const Ops::Product products[] = {{plain, {}, y}, {bf16.weight, {}, z}};
      ops->Linear(written ? Ops::Input(ops->Materialize(input)) : input, products, 1);
      if constexpr (std::is_same_v<decltype(input), const Ops::Normed>) {
        y.insert(y.end(), first.begin(), first.end());
      }
      y.insert(y.end(), z.begin(), z.end());
      return y;
    };
    const auto normed = [&](auto& hidden, auto& delta, auto& out) {
      return Ops::Normed{hidden, delta, bias, norm, 1e-5f, out};
    };
    EXPECT_TRUE(SameBits(run(false, normed), run(true, normed))) << tokens;
    for (const auto activation :
         {Ops::Gated::Activation::kSilu, Ops::Gated::Activation::kGeluTanh}) {
      const auto gated = [&](auto& gate, auto& up, auto&) {
        return Ops::Gated{activation, gate, up};
      };
      EXPECT_TRUE(SameBits(run(false, gated), run(true, gated))) << tokens;
    }
  }
}

TEST_P(OpsTest, RowsAreGatheredAndCombined) {
  const std::vector<float> x = {1, 2, 3, 4, 5, 6};  // three rows of two
  const std::vector<int32_t> rows = {2, 0, 2, 1};
  std::vector<float> gathered(8, NAN);
  Make(2)->GatherRows(x, 2, rows, gathered);
  EXPECT_EQ(gathered, (std::vector<float>{5, 6, 1, 2, 5, 6, 3, 4}));
  const std::vector<float> weights = {0.5f, 2, 1, -1};
  std::vector<float> combined(4, NAN);
  Make(2)->CombineRows(x, 2, rows, weights, 2, combined);
  EXPECT_EQ(combined, (std::vector<float>{4.5f, 7, 2, 2}));
}

TEST_P(OpsTest, MergeColumnsPutsSlicesBesideEachOther) {
  // Two tokens, slices of three columns of which the last has two that count.
  const std::vector<float> slices = {1, 2, 3, 11, 12, 13, 4, 5, 0, 14, 15, 0};
  std::vector<float> merged(10, NAN);
  Make(2)->MergeColumns(slices, 2, 3, 5, merged);
  EXPECT_EQ(merged, (std::vector<float>{1, 2, 3, 4, 5, 11, 12, 13, 14, 15}));
  // One slice narrower than the rows leaves the rest as it is.
  std::vector<float> wide(8, 7);
  Make(2)->MergeColumns(std::span(slices).first(6), 2, 3, 4, wide);
  EXPECT_EQ(wide, (std::vector<float>{1, 2, 3, 7, 11, 12, 13, 7}));
}

TEST_P(OpsTest, AddResidualAddsDeltaAndBias) {
  std::vector<float> hidden = {1, 2, 3, 4};
  const std::vector<float> delta = {10, 20, 30, 40};
  Make(1)->AddResidual(hidden, delta, {});
  EXPECT_EQ(hidden, (std::vector<float>{11, 22, 33, 44}));
  const std::vector<float> bias = {100, 200};
  Make(1)->AddResidual(hidden, delta, bias);
  EXPECT_EQ(hidden, (std::vector<float>{121, 242, 163, 284}));
}

struct AttentionCase {
  int64_t length, heads, kv_heads, head_dim, block_size, window;
  double scale = 0.25;
};

AttentionShape Shape(const AttentionCase& c) {
  return {.heads = c.heads, .scale = static_cast<float>(c.scale), .window = c.window};
}

// Pages in a shuffled order, unused ones poisoned with NaN.
class PagedCache {
 public:
  PagedCache(const AttentionCase& c, const std::vector<float>& k, const std::vector<float>& v,
             Ops& ops, KvDType dtype = KvDType::kF32)
      : pages_((c.length + c.block_size - 1) / c.block_size) {
    layer_ = {.dtype = dtype,
              .num_kv_heads = c.kv_heads,
              .block_size = c.block_size,
              .head_dim = c.head_dim};
    const int64_t pool = (2 * pages_ + 1) * layer_.page_bytes();
    memory_.assign(2 * pool, std::byte{0xff});  // as f32, bf16 and int8 scale a NaN
    layer_.k = memory_.data();
    layer_.v = memory_.data() + pool;
    for (int64_t page = 0; page < pages_; ++page) {
      table_.push_back(static_cast<int32_t>(2 * ((page * 3 + 1) % pages_) + 1));
    }
    std::sort(table_.begin(), table_.end());
    table_.erase(std::unique(table_.begin(), table_.end()), table_.end());
    for (int32_t page = 0; static_cast<int64_t>(table_.size()) < pages_; page += 2) {
      table_.push_back(page);
    }
    std::reverse(table_.begin(), table_.end());
    for (int64_t t = 0; t < c.length; ++t)
      batch_.places.push_back({.position = t, .block_table = table_});
    batch_.ids.resize(batch_.places.size());
    StoreKv(ops, k, v, batch_.places, layer_);
  }
  const KvLayer& layer() const { return layer_; }
  const StepBatch& batch() const { return batch_; }
  const std::vector<TokenPlace>& places() const { return batch_.places; }

 private:
  int64_t pages_;
  std::vector<std::byte> memory_;
  std::vector<int32_t> table_;
  StepBatch batch_;
  KvLayer layer_;
};

// What the cache makes of rows of head_dim values, by the definition of its types (kv_layer.h).
std::vector<float> Rounded(const std::vector<float>& x, int64_t head_dim, KvDType dtype) {
  std::vector<float> rounded = x;
  for (size_t row = 0; row < x.size(); row += head_dim) {
    double largest = 0;
    for (int64_t i = 0; i < head_dim; ++i) {
      largest = std::max<double>(largest, std::abs(x[row + i]));
    }
    for (int64_t i = 0; i < head_dim; ++i) {
      double unit = largest / 127;
      if (dtype == KvDType::kBF16) unit = std::ldexp(1.0, std::ilogb(x[row + i]) - 7);
      if (dtype != KvDType::kF32 && unit > 0) {
        rounded[row + i] = static_cast<float>(std::nearbyint(x[row + i] / unit) * unit);
      }
    }
  }
  return rounded;
}

double ReferenceAttention(const AttentionCase& c, const std::vector<float>& q,
                          const std::vector<float>& k, const std::vector<float>& v, int64_t t,
                          int64_t h, int64_t d) {
  const int64_t kv_head = h / (c.heads / c.kv_heads);
  const int64_t begin = c.window > 0 ? std::max<int64_t>(0, t + 1 - c.window) : 0;
  std::vector<double> scores;
  double best = -INFINITY;
  for (int64_t j = begin; j <= t; ++j) {
    double dot = 0;
    for (int64_t i = 0; i < c.head_dim; ++i) {
      dot += static_cast<double>(q[(t * c.heads + h) * c.head_dim + i]) *
             k[(j * c.kv_heads + kv_head) * c.head_dim + i];
    }
    scores.push_back(dot * c.scale);
    best = std::max(best, scores.back());
  }
  double sum = 0, out = 0;
  for (size_t j = 0; j < scores.size(); ++j) {
    const double weight = std::exp(scores[j] - best);
    sum += weight;
    out += weight * v[((begin + static_cast<int64_t>(j)) * c.kv_heads + kv_head) * c.head_dim + d];
  }
  return out / sum;
}

TEST_P(OpsTest, AttentionMatchesFormula) {
  const std::vector<AttentionCase> cases = {{1, 1, 1, 8, 16, 0},   {50, 4, 2, 32, 16, 0},
                                            {70, 8, 1, 20, 32, 0}, {90, 2, 2, 64, 16, 17},
                                            {40, 6, 3, 16, 48, 1}, {200, 7, 1, 80, 16, 70, 0.1}};
  for (const AttentionCase& c : cases) {
    const auto ops = Make(2);
    const std::vector<float> q = RandomFloats(c.length * c.heads * c.head_dim, 10, 2.0f);
    const std::vector<float> k = RandomFloats(c.length * c.kv_heads * c.head_dim, 11, 2.0f);
    const std::vector<float> v = RandomFloats(c.length * c.kv_heads * c.head_dim, 12);
    const PagedCache cache(c, k, v, *ops);
    std::vector<float> out(q.size(), NAN);
    ops->Attention(q, cache.batch(), cache.layer(), Shape(c), out);
    for (int64_t t = 0; t < c.length; t += 3) {
      for (int64_t h = 0; h < c.heads; ++h) {
        for (int64_t d = 0; d < c.head_dim; d += 5) {
          EXPECT_NEAR(out[(t * c.heads + h) * c.head_dim + d],
                      ReferenceAttention(c, q, k, v, t, h, d), 3e-6);
        }
      }
    }
    // Alone, each token gets the same bits as among others.
    for (int64_t t = 0; t < c.length; t += 7) {
      const int64_t row = c.heads * c.head_dim;
      std::vector<float> alone(row);
      ops->Attention(std::span(q).subspan(t * row, row), BatchOf({&cache.places()[t], 1}),
                     cache.layer(), Shape(c), alone);
      EXPECT_TRUE(std::equal(alone.begin(), alone.end(), out.begin() + t * row));
    }
  }
}

// Against the same formula over what the cache holds, so the bound is that of the f32 cache: how
// far the rounding itself moves a value is StoreKvRoundsToNearest's.
TEST_P(OpsTest, AttentionOverNarrowCachesMatchesFormula) {
  const AttentionCase c{90, 4, 2, 40, 32, 0};
  const std::vector<float> q = RandomFloats(c.length * c.heads * c.head_dim, 10);
  const std::vector<float> k = RandomFloats(c.length * c.kv_heads * c.head_dim, 11);
  const std::vector<float> v = RandomFloats(c.length * c.kv_heads * c.head_dim, 12);
  for (const KvDType dtype : {KvDType::kBF16, KvDType::kInt8}) {
    const std::vector<float> k_held = Rounded(k, c.head_dim, dtype);
    const std::vector<float> v_held = Rounded(v, c.head_dim, dtype);
    const auto ops = Make(2);
    const PagedCache cache(c, k, v, *ops, dtype);
    std::vector<float> out(q.size(), NAN);
    ops->Attention(q, cache.batch(), cache.layer(), Shape(c), out);
    for (int64_t t = 0; t < c.length; t += 3) {
      for (int64_t h = 0; h < c.heads; ++h) {
        for (int64_t d = 0; d < c.head_dim; ++d) {
          EXPECT_NEAR(out[(t * c.heads + h) * c.head_dim + d],
                      ReferenceAttention(c, q, k_held, v_held, t, h, d), 3e-6)
              << KvDTypeName(dtype);
        }
      }
    }
  }
}

// The page itself: half a unit in the last place of bf16 is at most 2^-8 of the value;
// half an int8 step, and its division rounded to float32.
TEST_P(OpsTest, StoreKvRoundsToNearest) {
  const AttentionCase c{35, 1, 3, 20, 32, 0};
  const std::vector<float> k = RandomFloats(c.length * c.kv_heads * c.head_dim, 13, 5.0f);
  const std::vector<float> v = RandomFloats(k.size(), 14, 1e-3f);
  const auto ops = Make(1);
  for (const KvDType dtype : {KvDType::kBF16, KvDType::kInt8}) {
    const PagedCache cache(c, k, v, *ops, dtype);
    const KvLayer& layer = cache.layer();
    for (const bool key : {true, false}) {
      const std::vector<float>& x = key ? k : v;
      for (size_t i = 0; i < x.size(); ++i) {
        const int64_t row = static_cast<int64_t>(i) / c.head_dim, token = row / c.kv_heads;
        const int64_t slot = token % c.block_size, d = static_cast<int64_t>(i) % c.head_dim;
        const int32_t page = cache.places()[token].block_table[token / c.block_size];
        const std::byte* head = (key ? layer.k : layer.v) + page * layer.page_bytes() +
                                row % c.kv_heads * layer.head_bytes();
        // kv_layer.h: [block_size / 16, head_dim, 16] and [block_size, head_dim].
        const int64_t at =
            key ? (slot / 16 * c.head_dim + d) * 16 + slot % 16 : slot * c.head_dim + d;
        if (dtype == KvDType::kBF16) {
          uint16_t bits = 0;
          std::memcpy(&bits, head + at * 2, sizeof(bits));
          EXPECT_LE(std::abs(Bf16ToDouble(bits) - x[i]), std::abs(x[i]) * 0x1p-8);
          continue;
        }
        float scale = 0;
        std::memcpy(&scale, head + c.block_size * c.head_dim + slot * 4, sizeof(scale));
        const auto step = static_cast<int8_t>(head[at]);
        EXPECT_LE(std::abs(static_cast<double>(scale) * step - x[i]), scale * 0.50001);
        float largest = 0;
        for (int64_t j = 0; j < c.head_dim; ++j) {
          largest = std::max(largest, std::abs(x[row * c.head_dim + j]));
        }
        EXPECT_EQ(scale, largest / 127.0f);
      }
    }
  }
}

TEST_P(OpsTest, StoreKvTakesTiesToEvenAndOddValues) {
  const AttentionCase c{1, 1, 1, 8, 16, 0};
  const float tie = std::bit_cast<float>(0x3f808000u);      // between 0x3f80 and 0x3f81
  const float odd_tie = std::bit_cast<float>(0x3f818000u);  // between 0x3f81 and 0x3f82
  const std::vector<float> bf16 = {tie, odd_tie, -tie, 0.0f, -0.0f, INFINITY, NAN, 1e-45f};
  // Scale 1: half steps go to the even neighbour.
  const std::vector<float> int8 = {127.0f, 0.5f, 1.5f, -2.5f, -0.5f, 126.5f, NAN, -126.5f};
  const std::vector<float> zeros(8);
  const auto ops = Make(1);
  const auto bytes = [&](const std::vector<float>& v, KvDType dtype) {
    const PagedCache cache(c, zeros, v, *ops, dtype);
    const KvLayer& layer = cache.layer();
    const std::byte* page = layer.v + cache.places()[0].block_table[0] * layer.page_bytes();
    return std::vector<std::byte>(page, page + layer.page_bytes());
  };
  uint16_t halves[8];
  std::memcpy(halves, bytes(bf16, KvDType::kBF16).data(), sizeof(halves));
  const uint16_t want[] = {0x3f80, 0x3f82, 0xbf80, 0, 0x8000, 0x7f80, 0x7fc0, 0};
  EXPECT_TRUE(std::equal(halves, halves + 8, want));
  const std::vector<std::byte> page = bytes(int8, KvDType::kInt8);
  const int8_t steps[] = {127, 0, 2, -2, 0, 126, 0, -126};
  EXPECT_EQ(std::memcmp(page.data(), steps, sizeof(steps)), 0);
  // A row of zeros has scale zero and reads as zeros.
  const std::vector<std::byte> empty = bytes(zeros, KvDType::kInt8);
  EXPECT_TRUE(
      std::all_of(empty.begin(), empty.begin() + 8, [](std::byte b) { return b == std::byte{}; }));
  EXPECT_EQ(std::memcmp(empty.data() + 16 * 8, zeros.data(), sizeof(float)), 0);
}

INSTANTIATE_TEST_SUITE_P(Variants, OpsTest, testing::ValuesIn(CpuVariants()),
                         [](const auto& info) { return info.param; });

TEST(MakeCpuOps, RefusesNonsense) {
  EXPECT_FALSE(MakeCpuOps(0).ok());
  EXPECT_FALSE(MakeCpuOps(1, "mmx").ok());
}

TEST(KvDType, NamesRoundTrip) {
  for (const KvDType dtype : {KvDType::kF32, KvDType::kBF16, KvDType::kInt8}) {
    EXPECT_EQ(ParseKvDType(KvDTypeName(dtype)), dtype);
  }
  EXPECT_FALSE(ParseKvDType("fp8").has_value());
}

TEST(ToFloats, WidensEveryHalfAndBf16) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  const std::vector<float> half = ToFloats(Matrix(bits.data(), DType::kF16, 64, 1024));
  const std::vector<float> bf16 = ToFloats(Matrix(bits.data(), DType::kBF16, 64, 1024));
  EXPECT_TRUE(SameBits(bf16, ToFloats(PackedBf16(bits, 64, 1024).weight)));
  for (size_t i = 0; i < bits.size(); ++i) {
    const double want = HalfToDouble(bits[i]);
    EXPECT_TRUE(half[i] == want || (std::isnan(half[i]) && std::isnan(want))) << i;
    EXPECT_EQ(std::signbit(half[i]), (i & 0x8000) != 0);
    EXPECT_EQ(std::bit_cast<uint32_t>(bf16[i]), uint32_t{bits[i]} << 16);
  }
}

}  // namespace
}  // namespace trireme
