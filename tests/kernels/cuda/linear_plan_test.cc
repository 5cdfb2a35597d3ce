// Which way a product takes, and how its columns are divided.

#include "kernels/cuda/linear_plan.h"

#include <gtest/gtest.h>

#include "kernels/cuda/linear.h"

namespace trireme::cuda {
namespace {

TEST(LinearPlanTest, FewTokensReadTheWeightsAsTheyAre) {
  EXPECT_EQ(ChooseLinearPath(DType::kBF16, 1), LinearPath::kRows);
  EXPECT_EQ(ChooseLinearPath(DType::kF16, 16), LinearPath::kRows);
  EXPECT_EQ(ChooseLinearPath(DType::kBF16, 17), LinearPath::kLibrary);
  EXPECT_EQ(ChooseLinearPath(DType::kF32, 8), LinearPath::kRows);
  EXPECT_EQ(ChooseLinearPath(DType::kF32, 9), LinearPath::kLibrary);
  EXPECT_EQ(ChooseLinearPath(DType::kQ4_0, 1), LinearPath::kPanels);
  EXPECT_EQ(ChooseLinearPath(DType::kQ4K, 128), LinearPath::kPanels);
  EXPECT_EQ(ChooseLinearPath(DType::kQ4K, 129), LinearPath::kDequantize);
}

TEST(LinearPlanTest, TilingHoldsTheTokens) {
  for (int64_t tokens = 1; tokens <= kPanelTokens; ++tokens) {
    const int i = PanelTilingFor(tokens);
    EXPECT_LE(tokens, kPanelTilings[i].tokens());
    EXPECT_TRUE(i == 0 || tokens > kPanelTilings[i - 1].tokens());
  }
  for (int64_t tokens = 1; tokens <= kRowsTokensMax; ++tokens) {
    EXPECT_LE(tokens, kRowsTilings[RowsTilingFor(tokens)].tokens());
  }
  EXPECT_EQ(kPanelTilings[PanelTilingFor(kPanelsTokensMax)].tokens(), kPanelTokens);
}

TEST(LinearPlanTest, SmallMatricesAreSplitToFillTheDevice) {
  // 1024 rows make 64 blocks, 264 are wanted, and 4096 columns are enough for two parts.
  EXPECT_EQ(LinearSplits(kPanelTilings[0], 1024, 4096, 128), 2);
  EXPECT_EQ(LinearSplits(kPanelTilings[0], 1024, 14336, 128), 4);
  EXPECT_EQ(LinearSplits(kPanelTilings[0], 128256, 4096, 128), 1);
  EXPECT_EQ(LinearSplits(kPanelTilings[3], 4096, 4096, 128), 4);
  EXPECT_EQ(LinearSplits(kPanelTilings[0], 16, 32, 128), 1);
}

TEST(LinearPlanTest, ChunksOfRowsFitTheCache) {
  EXPECT_EQ(DequantizeRows(1000, 4096, kDequantizeBytes), 1000);
  EXPECT_EQ(DequantizeRows(128256, 4096, kDequantizeBytes), 3072);
  EXPECT_EQ(DequantizeRows(200, 4096, 1), 128);
}

TEST(LinearPlanTest, WorkspaceIsEnoughForFewerTokens) {
  const Weight weights[] = {
      {.dtype = DType::kQ4_0, .rows = 1024, .cols = 14336, .packed = true},
      {.dtype = DType::kBF16, .rows = 256, .cols = 14336, .row_stride = 14336}};
  int64_t before = 0;
  for (int64_t tokens = 1; tokens < 300; ++tokens) {
    const int64_t bytes = LinearWorkspaceBytes(tokens, weights);
    EXPECT_GE(bytes, before) << tokens;
    before = bytes;
  }
}

}  // namespace
}  // namespace trireme::cuda
