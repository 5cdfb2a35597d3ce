// A step's arrays as kernels read them: ragged batches, padding, and that equal shapes have equal
// places.

#include "kernels/cuda/plan_upload.h"

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cuda/graph_buckets.h"

namespace trireme::cuda {
namespace {

template <class T>
std::vector<T> At(const std::vector<std::byte>& bytes, size_t offset, size_t n) {
  std::vector<T> values(n);
  std::memcpy(values.data(), bytes.data() + offset, n * sizeof(T));
  return values;
}

using Ints = std::vector<int32_t>;

TEST(PlanUpload, RaggedBatchWithPadding) {
  const Ints first = {5, 9}, second = {7};
  StepBatch batch;
  batch.ids = {11, 12, 13, 0, 0};
  // Two tokens of one sequence, one of another at a position of its own, two of none.
  batch.places = {{.position = 20, .block_table = first},
                  {.position = 21, .block_table = first},
                  {.position = 3, .block_table = second},
                  {.position = -1, .block_table = {}},
                  {.position = -1, .block_table = {}}};
  for (int i = 0; i < 10; ++i) {
    batch.rope.cos.push_back(static_cast<float>(i));
    batch.rope.sin.push_back(static_cast<float>(-i));
  }
  batch.wanted = {1, 2, 2};
  const PlanShape shape = ShapeOf(batch);
  EXPECT_EQ(shape, (PlanShape{.tokens = 5,
                              .sequences = 4,
                              .blocks = 16,
                              .query_max = 2,
                              .angles = 10,
                              .local_angles = false,
                              .wanted = 3}));
  const PlanLayout layout(shape);
  std::vector<std::byte> bytes(layout.bytes, std::byte{0xff});
  PackPlan(batch, shape, layout, bytes);
  EXPECT_EQ(At<int32_t>(bytes, layout.ids, 5), batch.ids);
  EXPECT_EQ(At<int32_t>(bytes, layout.positions, 5), (Ints{20, 21, 3, -1, -1}));
  EXPECT_EQ(At<int32_t>(bytes, layout.sequence_of_token, 5), (Ints{0, 0, 1, 2, 3}));
  EXPECT_EQ(At<int32_t>(bytes, layout.query_start, 5), (Ints{0, 2, 3, 4, 5}));
  EXPECT_EQ(At<int32_t>(bytes, layout.wanted, 3), (Ints{1, 2, 2}));
  EXPECT_EQ(At<float>(bytes, layout.cos, 10), batch.rope.cos);
  EXPECT_EQ(At<float>(bytes, layout.sin, 10), batch.rope.sin);
  Ints tables(4 * 16);
  tables[0] = 5, tables[1] = 9, tables[16] = 7;
  EXPECT_EQ(At<int32_t>(bytes, layout.block_tables, tables.size()), tables);
}

TEST(PlanUpload, TokensOfOneSequenceNeedNeighbouringPositions) {
  const Ints table = {1, 2};
  StepBatch batch;
  batch.ids = {1, 2};
  batch.places = {{.position = 4, .block_table = table}, {.position = 4, .block_table = table}};
  EXPECT_EQ(ShapeOf(batch).sequences, 2);
}

TEST(PlanUpload, ArraysAreAlignedAndApart) {
  const PlanLayout layout(PlanShape{.tokens = 3,
                                    .sequences = 3,
                                    .blocks = 16,
                                    .query_max = 1,
                                    .angles = 70,
                                    .local_angles = true,
                                    .wanted = 3});
  const std::vector<size_t> begins = {
      layout.ids,         layout.positions,    layout.sequence_of_token,
      layout.query_start, layout.block_tables, layout.wanted,
      layout.cos,         layout.sin,          layout.local_cos,
      layout.local_sin,   layout.bytes};
  const std::vector<size_t> counts = {3, 3, 3, 4, 48, 3, 70, 70, 70, 70};
  for (size_t i = 0; i < counts.size(); ++i) {
    EXPECT_EQ(begins[i] % 256, 0u);
    EXPECT_GE(begins[i + 1], begins[i] + counts[i] * 4);
  }
}

TEST(GraphBuckets, HoldTheTokensAndWasteLittle) {
  int64_t sizes = 0;
  for (int64_t tokens = 1; tokens <= kGraphTokensMax; ++tokens) {
    const int64_t size = GraphTokens(tokens);
    EXPECT_GE(size, tokens);
    EXPECT_LE(size, kGraphTokensMax);
    EXPECT_LE(size, std::max<int64_t>(2 * tokens, 8));
    EXPECT_EQ(GraphTokens(size), size);
    sizes += size == tokens ? 1 : 0;
  }
  EXPECT_EQ(sizes, 19);  // 1, 2, 4; 8 to 64; 80 to 128; 160 to 256
  EXPECT_EQ(GraphTokens(1000), 1000);
  EXPECT_EQ(GraphBlocks(1), 16);
  EXPECT_EQ(GraphBlocks(16), 16);
  EXPECT_EQ(GraphBlocks(17), 32);
}

}  // namespace
}  // namespace trireme::cuda
