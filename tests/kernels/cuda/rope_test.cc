// Rotation and the KV cache's content against the CPU backend, bit for bit.

#include "kernels/cuda/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/cuda/device_array.h"
#include "tests/kernels/reference.h"

namespace trireme::cuda {
namespace {

// For the CPU; turns by nothing.
StepBatch OneToken(int64_t half) {
  StepBatch batch;
  batch.ids = {0};
  batch.rope.cos.assign(half, 1.0f);
  batch.rope.sin.assign(half, 0.0f);
  return batch;
}

constexpr int64_t kBlockSize = 32;
constexpr int64_t kPages = 9;

struct Case {
  KvDType dtype;
  int64_t heads, kv_heads, head_dim;
  bool rotate;
};

std::string Name(const testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return std::string(KvDTypeName(c.dtype)) + "_" + std::to_string(c.heads) + "_" +
         std::to_string(c.kv_heads) + "_" + std::to_string(c.head_dim) + (c.rotate ? "" : "_plain");
}

// Three sequences: a prompt's chunk that crosses pages, a decoded token, another chunk; and padding
// between and behind them.
struct Step {
  std::vector<int32_t> positions, sequence_of_token;
  std::vector<int32_t> tables = {3, 1, 8, 0, 5, 7, 2, 6, 4};
  int64_t blocks_max = 3;

  Step() {
    for (int position = 14; position < 40; ++position) Add(position, 0);
    Add(63, 1);
    Add(-1, 0);
    for (int position = 0; position < 5; ++position) Add(position, 2);
    for (int i = 0; i < 3; ++i) Add(-1, 12345);  // nobody may read that
  }
  void Add(int position, int sequence) {
    positions.push_back(position);
    sequence_of_token.push_back(sequence);
  }
  int64_t tokens() const { return static_cast<int64_t>(positions.size()); }
};

class RopeOf : public testing::TestWithParam<Case> {};

TEST_P(RopeOf, HasTheCpusBits) {
  const Case c = GetParam();
  const Step step;
  const int64_t tokens = step.tokens(), half = c.head_dim / 2;
  const std::vector<float> q = RandomFloats(tokens * c.heads * c.head_dim, 1);
  std::vector<float> k = RandomFloats(tokens * c.kv_heads * c.head_dim, 2);
  std::vector<float> v = RandomFloats(k.size(), 3);
  if (c.dtype != KvDType::kBF16) v[5] = NAN;  // which bits a bfloat16 NaN has is the device's own
  v[7] = INFINITY;
  for (int64_t i = 0; i < c.head_dim; ++i) v[c.kv_heads * c.head_dim + i] = 0.0f;
  // One row of angles for each position.
  constexpr int64_t kPositions = 96;
  std::vector<float> cos(kPositions * half), sin(cos.size());
  for (int64_t i = 0; i < kPositions * half; ++i) {
    const double angle =
        static_cast<double>(i / half) * std::pow(10000.0, -static_cast<double>(i % half) / half);
    cos[i] = static_cast<float>(std::cos(angle));
    sin[i] = static_cast<float>(std::sin(angle));
  }

  KvLayer cache{.dtype = c.dtype,
                .num_kv_heads = c.kv_heads,
                .block_size = kBlockSize,
                .head_dim = c.head_dim};
  const size_t bytes = static_cast<size_t>(kPages * cache.page_bytes());
  std::vector<std::byte> k_pages(bytes, std::byte{0xff}), v_pages(bytes, std::byte{0xff});

  // The CPU has no padding: the tokens in question, one after another.
  std::vector<float> expected_q = q;
  const auto cpu = *MakeCpuOps(1, "scalar");
  cache.k = k_pages.data();
  cache.v = v_pages.data();
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t position = step.positions[t];
    if (position < 0) continue;
    const auto row = [&](std::vector<float>& x, int64_t heads) {
      return std::span(x).subspan(t * heads * c.head_dim, heads * c.head_dim);
    };
    std::vector<float> rotated(row(k, c.kv_heads).begin(), row(k, c.kv_heads).end());
    StepBatch one = OneToken(half);
    if (c.rotate) {
      one.rope.cos.assign(&cos[position * half], &cos[position * half] + half);
      one.rope.sin.assign(&sin[position * half], &sin[position * half] + half);
    }
    one.places = {{.position = position,
                   .block_table =
                       std::span(step.tables)
                           .subspan(step.sequence_of_token[t] * step.blocks_max, step.blocks_max)}};
    cpu->RopeStoreKv(row(expected_q, c.heads), rotated, row(v, c.kv_heads), one, {.heads = c.heads},
                     cache);
  }

  const DeviceArray<float> d_q(q), d_k(k), d_v(v), d_cos(cos), d_sin(sin);
  const DeviceArray<int32_t> positions(step.positions), sequences(step.sequence_of_token),
      tables(step.tables);
  const DeviceArray<std::byte> d_k_pages(bytes), d_v_pages(bytes);  // filled with 0xff
  cache.k = d_k_pages.data();
  cache.v = d_v_pages.data();
  RopeAndStoreKv({.q = d_q.data(),
                  .heads = c.heads,
                  .k = d_k.data(),
                  .v = d_v.data(),
                  .head_dim = c.head_dim,
                  .cos = c.rotate ? d_cos.data() : nullptr,
                  .sin = c.rotate ? d_sin.data() : nullptr,
                  .angle_rows = positions.data(),
                  .positions = positions.data(),
                  .sequence_of_token = sequences.data(),
                  .block_tables = tables.data(),
                  .blocks_max = step.blocks_max,
                  .cache = cache,
                  .tokens = tokens});
  EXPECT_TRUE(SameBits(d_q.ToHost(), expected_q));
  EXPECT_TRUE(SameBits(d_k.ToHost(), k));
  EXPECT_TRUE(d_k_pages.ToHost() == k_pages);
  EXPECT_TRUE(d_v_pages.ToHost() == v_pages);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, RopeOf,
    testing::Values(Case{KvDType::kF32, 4, 2, 64, true}, Case{KvDType::kBF16, 8, 2, 128, true},
                    Case{KvDType::kInt8, 8, 1, 128, true}, Case{KvDType::kInt8, 3, 3, 96, true},
                    Case{KvDType::kBF16, 2, 1, 256, true}, Case{KvDType::kInt8, 1, 1, 20, true},
                    Case{KvDType::kF32, 1, 1, 2, true}, Case{KvDType::kInt8, 2, 2, 576, true},
                    Case{KvDType::kBF16, 4, 4, 80, false}),
    Name);

// Angles of each token, as the CPU takes them, and only queries.
TEST(Rope, OfQueriesAlone) {
  constexpr int64_t kTokens = 7, kHeads = 3, kDim = 64;
  std::vector<float> q = RandomFloats(kTokens * kHeads * kDim, 1);
  const std::vector<float> cos = RandomFloats(kTokens * kDim / 2, 2),
                           sin = RandomFloats(kTokens * kDim / 2, 3);
  const DeviceArray<float> d_q(q), d_cos(cos), d_sin(sin);
  RopeAndStoreKv({.q = d_q.data(),
                  .heads = kHeads,
                  .head_dim = kDim,
                  .cos = d_cos.data(),
                  .sin = d_sin.data(),
                  .tokens = kTokens});
  std::vector<float> expected = q;
  for (int64_t head = 0; head < kTokens * kHeads; ++head) {
    float* const x = &expected[head * kDim];
    for (int64_t i = 0; i < kDim / 2; ++i) {
      const int64_t angle = head / kHeads * kDim / 2 + i;
      const float low = x[i], high = x[i + kDim / 2];
      x[i] = low * cos[angle] - high * sin[angle];
      x[i + kDim / 2] = high * cos[angle] + low * sin[angle];
    }
  }
  q = expected;
  EXPECT_TRUE(SameBits(d_q.ToHost(), q));
}

// Values that fall on ties between two integers, and just beside them.
TEST(Rope, Int8RoundsTiesToEvenAsTheCpuDoes) {
  constexpr int64_t kDim = 256;
  std::vector<float> row(kDim);
  for (int64_t i = 0; i < kDim; ++i) row[i] = static_cast<float>(i) - 127.5f;
  row[255] = 127.0f;
  row[0] = std::nextafter(2.5f, 0.0f);
  KvLayer cache{.dtype = KvDType::kInt8, .num_kv_heads = 1, .block_size = 16, .head_dim = kDim};
  std::vector<std::byte> k(cache.page_bytes(), std::byte{0xff}), v = k;
  cache.k = k.data();
  cache.v = v.data();
  const std::vector<int32_t> zero = {0};
  StepBatch one = OneToken(kDim / 2);
  one.places = {{.position = 0, .block_table = zero}};
  std::vector<float> key = row;
  (*MakeCpuOps(1, "scalar"))->RopeStoreKv({}, key, row, one, {.heads = 0}, cache);

  const DeviceArray<float> d_row(row);
  const DeviceArray<int32_t> d_zero(zero);
  const DeviceArray<std::byte> d_k(k.size()), d_v(v.size());
  cache.k = d_k.data();
  cache.v = d_v.data();
  RopeAndStoreKv({.k = d_row.data(),
                  .v = d_row.data(),
                  .head_dim = kDim,
                  .positions = d_zero.data(),
                  .sequence_of_token = d_zero.data(),
                  .block_tables = d_zero.data(),
                  .blocks_max = 1,
                  .cache = cache,
                  .tokens = 1});
  EXPECT_EQ(d_k.ToHost(), k);
  EXPECT_EQ(d_v.ToHost(), v);
}

}  // namespace
}  // namespace trireme::cuda
