// Kernels of single elements and of whole rows, bit for bit where the arithmetic is one rounding
// after another, against doubles elsewhere.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda/activation.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rows.h"
#include "kernels/ops.h"
#include "tests/kernels/cuda/device_array.h"
#include "tests/kernels/quant_golden.h"
#include "tests/kernels/reference.h"

namespace trireme::cuda {
namespace {

// Around the borders of threads, blocks and vectors.
constexpr int64_t kSizes[] = {1, 3, 4, 31, 128, 1000, 1028, 4099};

std::unique_ptr<Ops> Cpu() { return *MakeCpuOps(1, "scalar"); }

StepBatch BatchOf(const std::vector<int32_t>& ids) {
  StepBatch batch;
  batch.ids = ids;
  return batch;
}

// A copy in device memory that begins `skip` elements into it, so that it is not aligned.
template <class T>
struct Shifted {
  Shifted(const std::vector<T>& values, size_t skip) : array(Padded(values, skip)), skip(skip) {}
  static std::vector<T> Padded(const std::vector<T>& values, size_t skip) {
    std::vector<T> padded(skip);
    padded.insert(padded.end(), values.begin(), values.end());
    return padded;
  }
  T* data() const { return array.data() + skip; }
  std::vector<T> ToHost() const {
    const std::vector<T> all = array.ToHost();
    return {all.begin() + static_cast<std::ptrdiff_t>(skip), all.end()};
  }
  DeviceArray<T> array;
  size_t skip;
};

TEST(Elementwise, SiluMulIsTheFormula) {
  for (const int64_t n : kSizes) {
    for (const size_t skip : {0, 1}) {
      const std::vector<float> x = RandomFloats(n, 1, 4.0f), up = RandomFloats(n, 2);
      const Shifted<float> gate(x, skip);
      const DeviceArray<float> d_up(up);
      SiluMul({.gate = gate.data(), .up = d_up.data(), .n = n});
      const std::vector<float> got = gate.ToHost();
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = x[i] / (1 + std::exp(-double{x[i]})) * up[i];
        ASSERT_NEAR(got[i], expected, 1e-30 + 1e-6 * std::fabs(expected)) << n << " " << i;
      }
    }
  }
}

TEST(Elementwise, GeluTanhMulIsTheFormula) {
  const double root = std::sqrt(2 / M_PI);
  for (const int64_t n : kSizes) {
    const std::vector<float> x = RandomFloats(n, 1, 3.0f), up = RandomFloats(n, 2);
    const DeviceArray<float> gate(x), d_up(up);
    GeluTanhMul({.gate = gate.data(), .up = d_up.data(), .n = n});
    const std::vector<float> got = gate.ToHost();
    for (size_t i = 0; i < x.size(); ++i) {
      const double d = x[i];
      // 1 + tanh(u) = 2 / (1 + e^-2u), which keeps its digits.
      const double u = root * (d + 0.044715 * d * d * d);
      const double expected = d / (1 + std::exp(-2 * u)) * up[i];
      ASSERT_NEAR(got[i], expected, 1e-7 + 4e-6 * std::fabs(expected)) << n << " " << i;
    }
  }
}

TEST(Elementwise, ActivationsOfLargeNumbersAreFinite) {
  const std::vector<float> x = {1e30f, -1e30f, 200.0f, -200.0f, 0.0f};
  const std::vector<float> expected = {1e30f, 0.0f, 200.0f, 0.0f, 0.0f};
  for (void (*activate)(const GatedArgs&) : {SiluMul, GeluTanhMul}) {
    const DeviceArray<float> gate(x), up(std::vector<float>(x.size(), 1.0f));
    activate({.gate = gate.data(), .up = up.data(), .n = static_cast<int64_t>(x.size())});
    const std::vector<float> got = gate.ToHost();
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(got[i], expected[i], 1e-30) << x[i];
  }
}

TEST(Elementwise, AddResidualHasTheCpusBits) {
  for (const int64_t rows : {1, 5}) {
    for (const int64_t cols : kSizes) {
      for (const bool with_bias : {false, true}) {
        std::vector<float> hidden = RandomFloats(rows * cols, 1);
        const std::vector<float> delta = RandomFloats(rows * cols, 2), bias = RandomFloats(cols, 3);
        const DeviceArray<float> d_hidden(hidden), d_delta(delta), d_bias(bias);
        AddResidual({.hidden = d_hidden.data(),
                     .delta = d_delta.data(),
                     .bias = with_bias ? d_bias.data() : nullptr,
                     .rows = rows,
                     .cols = cols});
        Cpu()->AddResidual(hidden, delta,
                           with_bias ? std::span<const float>(bias) : std::span<const float>());
        EXPECT_TRUE(SameBits(d_hidden.ToHost(), hidden)) << rows << "x" << cols;
      }
    }
  }
}

TEST(Elementwise, MoreRowsThanAGridHas) {
  constexpr int64_t kRows = 70000;
  const DeviceArray<float> hidden(std::vector<float>(kRows, 1.0f)),
      delta(std::vector<float>(kRows, 2.0f));
  AddResidual({.hidden = hidden.data(), .delta = delta.data(), .rows = kRows, .cols = 1});
  EXPECT_EQ(hidden.ToHost(), std::vector<float>(kRows, 3.0f));
}

// The ids as a device gets them before it has sampled some: every other one is known only as an
// index.
struct HalfSampled {
  explicit HalfSampled(std::vector<int32_t> all) {
    std::vector<int32_t> tokens;
    for (size_t t = 0; t < all.size(); t += 2) {
      tokens.push_back(all[t]);
      all[t] = -static_cast<int32_t>(tokens.size());
    }
    ids.emplace(all);
    sampled.emplace(tokens);
  }
  std::optional<DeviceArray<int32_t>> ids, sampled;
};

template <class T>
void ExpectCpusEmbedding(DType dtype, const std::vector<T>& values, int64_t cols, int64_t stride) {
  constexpr int64_t kFirst = 100;
  const int64_t rows = static_cast<int64_t>(values.size()) / stride;
  // Held, the first and last, below, above.
  const std::vector<int32_t> ids = {
      103, 100, static_cast<int32_t>(kFirst + rows - 1), 99, static_cast<int32_t>(kFirst + rows),
      103};
  const int64_t tokens = static_cast<int64_t>(ids.size());
  Weight table{
      .data = values.data(), .dtype = dtype, .rows = rows, .cols = cols, .row_stride = stride};
  for (const float scale : {1.0f, 0.37f}) {
    std::vector<float> expected(tokens * cols);
    if (dtype == DType::kBF16) {  // not row-major on the CPU
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t i = 0; i < cols; ++i) {
          const int64_t row = ids[t] - kFirst;
          if (row < 0 || row >= rows) continue;
          expected[t * cols + i] =
              static_cast<float>(Bf16ToDouble(static_cast<uint16_t>(values[row * stride + i]))) *
                  scale +
              0.0f;
        }
      }
    } else {
      Cpu()->Embedding(BatchOf(ids), table, kFirst, scale, expected);
    }
    const DeviceArray<T> d_table(values);
    const HalfSampled tokens_of(ids);
    const DeviceArray<float> out(expected.size());
    Weight on_device = table;
    on_device.data = d_table.data();
    Embedding({.ids = tokens_of.ids->data(),
               .sampled = tokens_of.sampled->data(),
               .table = on_device,
               .first_id = kFirst,
               .scale = scale,
               .out = out.data(),
               .tokens = tokens});
    EXPECT_TRUE(SameBits(out.ToHost(), expected)) << DTypeName(dtype) << " " << cols;
  }
}

TEST(Elementwise, EmbeddingHasTheCpusBits) {
  for (const int64_t cols : kSizes) {
    for (const int64_t stride : {cols, cols + 3, (cols + 7) / 4 * 4}) {
      std::vector<float> floats = RandomFloats(9 * stride, 1);
      floats[3 * stride] = -0.0f;
      ExpectCpusEmbedding(DType::kF32, floats, cols, stride);
      ExpectCpusEmbedding(DType::kBF16, ToBf16(floats), cols, stride);
      std::vector<uint16_t> halves(floats.size());
      for (size_t i = 0; i < halves.size(); ++i) {
        halves[i] = static_cast<uint16_t>((i * 2654435761u) >> 7) & 0xBBFF;  // magnitudes below 1
      }
      ExpectCpusEmbedding(DType::kF16, halves, cols, stride);
    }
  }
}

TEST(Elementwise, QuantisedEmbeddingHasTheCpusBits) {
  constexpr int64_t kFirst = 50, kRows = 37;
  const std::vector<int32_t> ids = {50, 86, 65, 66, 49, 87, 70};
  for (const DType dtype : kQuantTypes) {
    const Stored stored(dtype);
    // The second begins inside a super-block and ends in another, as a rank's columns may.
    for (const auto& [begin, end] :
         std::vector<std::pair<int64_t, int64_t>>{{0, stored.cols()}, {32, stored.cols() - 64}}) {
      Weight table;
      // Behind the table's rows are values that nobody may see.
      const std::vector<std::byte> packed = stored.Pack(48, begin, end, table);
      table.rows = kRows;
      std::vector<float> expected(ids.size() * table.cols);
      Cpu()->Embedding(BatchOf(ids), table, kFirst, 1.5f, expected);
      const DeviceArray<std::byte> d_packed(packed);
      const HalfSampled tokens_of(ids);
      const DeviceArray<float> out(expected.size());
      table.data = d_packed.data();
      Embedding({.ids = tokens_of.ids->data(),
                 .sampled = tokens_of.sampled->data(),
                 .table = table,
                 .first_id = kFirst,
                 .scale = 1.5f,
                 .out = out.data(),
                 .tokens = static_cast<int64_t>(ids.size())});
      EXPECT_TRUE(SameBits(out.ToHost(), expected)) << DTypeName(dtype) << " " << begin;
    }
  }
}

// The last ranks may have none of the vocabulary.
TEST(Elementwise, EmbeddingFromNoRowsIsZeros) {
  constexpr int64_t kCols = 256;
  const std::vector<int32_t> ids = {0, 5};
  const DeviceArray<int32_t> d_ids(ids);
  for (int i = 0; i <= static_cast<int>(DType::kInt4Zero); ++i) {
    const auto dtype = static_cast<DType>(i);
    const DeviceArray<float> out(ids.size() * kCols);
    Embedding({.ids = d_ids.data(),
               .table = {.dtype = dtype,
                         .cols = kCols,
                         .row_stride = kCols,
                         .packed = IsQuantized(dtype)},
               .first_id = 5,
               .out = out.data(),
               .tokens = static_cast<int64_t>(ids.size())});
    EXPECT_TRUE(SameBits(out.ToHost(), std::vector<float>(out.size()))) << DTypeName(dtype);
  }
}

TEST(Elementwise, GatherRows) {
  const std::vector<int32_t> index = {2, 0, -1, 2, 4};
  for (const int64_t cols : kSizes) {
    const std::vector<float> x = RandomFloats(5 * cols, 1);
    const DeviceArray<float> d_x(x), out(index.size() * cols);
    const DeviceArray<int32_t> d_index(index);
    GatherRows({.x = d_x.data(),
                .index = d_index.data(),
                .out = out.data(),
                .rows = static_cast<int64_t>(index.size()),
                .cols = cols});
    const std::vector<float> got = out.ToHost();
    for (size_t row = 0; row < index.size(); ++row) {
      for (int64_t i = 0; i < cols; ++i) {
        ASSERT_EQ(got[row * cols + i], index[row] < 0 ? 0.0f : x[index[row] * cols + i]);
      }
    }
  }
}

TEST(Elementwise, MergeSlices) {
  for (const int64_t ranks : {1, 2, 4}) {
    for (const int64_t slice : {1, 3, 64, 1000}) {
      for (const int64_t rows : {1, 3}) {
        for (const int64_t cut : {int64_t{0}, slice / 2}) {
          const int64_t cols = ranks * slice - cut;
          std::vector<float> slices(ranks * rows * slice);
          std::iota(slices.begin(), slices.end(), 0.0f);
          const DeviceArray<float> d_slices(slices), out(rows * cols);
          MergeSlices({.slices = d_slices.data(),
                       .out = out.data(),
                       .ranks = ranks,
                       .rows = rows,
                       .slice = slice,
                       .cols = cols});
          const std::vector<float> got = out.ToHost();
          for (int64_t row = 0; row < rows; ++row) {
            for (int64_t i = 0; i < cols; ++i) {
              ASSERT_EQ(got[row * cols + i], slices[(i / slice * rows + row) * slice + i % slice]);
            }
          }
        }
      }
    }
  }
}

TEST(Elementwise, NothingIsNoLaunch) {
  SiluMul({});
  AddResidual({});
  GatherRows({});
  MergeSlices({});
  Embedding({.table = {.cols = 4, .row_stride = 4}});
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

}  // namespace
}  // namespace trireme::cuda
