#include "kernels/cuda/linear_plan.h"

#include <algorithm>

#include "base/check.h"

namespace trireme::cuda {
namespace {

// Blocks of threads that keep a large GPU's memory busy: two for each of an H100's 132
// multiprocessors, or one where many tokens make the parts' sums expensive.
constexpr int64_t kBlocksFewTokens = 264;
constexpr int64_t kBlocksManyTokens = 132;
// A group of warps takes at least so many steps, to pay for filling its pipeline.
constexpr int64_t kStepsMin = 2;

template <int n>
int TilingFor(const LinearTiling (&tilings)[n], int64_t tokens) {
  for (int i = 0; i < n; ++i) {
    if (tokens <= tilings[i].tokens()) return i;
  }
  return n - 1;
}

}  // namespace

LinearPath ChooseLinearPath(DType dtype, int64_t tokens) {
  if (dtype == DType::kFp8) return LinearPath::kFp8;
  if (IsQuantized(dtype)) {
    return tokens <= kPanelsTokensMax ? LinearPath::kPanels : LinearPath::kDequantize;
  }
  const int64_t most = dtype == DType::kF32 ? kRowsTokensMaxF32 : kRowsTokensMax;
  return tokens <= most ? LinearPath::kRows : LinearPath::kLibrary;
}

int PanelTilingFor(int64_t tokens) { return TilingFor(kPanelTilings, tokens); }
int RowsTilingFor(int64_t tokens) { return TilingFor(kRowsTilings, tokens); }

int LinearSplits(const LinearTiling& tiling, int64_t rows, int64_t cols, int64_t step_columns) {
  const int64_t row_blocks = (rows + tiling.rows() - 1) / tiling.rows();
  const int64_t steps = (cols + step_columns - 1) / step_columns;
  const int64_t wanted = (tiling.token_tiles <= 2 ? kBlocksFewTokens : kBlocksManyTokens) /
                         std::max<int64_t>(1, row_blocks);
  const int64_t most = steps / (tiling.k_warps * kStepsMin);
  return static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, most)));
}

int64_t DequantizeRows(int64_t rows, int64_t cols, int64_t bytes) {
  const int64_t fit = bytes / (2 * cols) / 128 * 128;
  return std::min(rows, std::max<int64_t>(128, fit));
}

}  // namespace trireme::cuda
