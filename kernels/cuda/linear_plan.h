#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/tensor.h"

namespace trireme::cuda {

// How a product y = x W^T is computed, chosen by its shape alone. Pure functions.

enum class LinearPath {
  kRows,        // few tokens, row-major floats: matrix units or, for float32, plain arithmetic
  kPanels,      // few tokens, quantised: straight from the panels
  kLibrary,     // many tokens, row-major floats: cuBLASLt
  kDequantize,  // many tokens, quantised: cuBLASLt on panels unpacked to bfloat16
  kFp8,         // fp8, any number of tokens: cuBLASLt on x rounded to fp8
};

// Most tokens that kRows takes. Reading the weights still takes longer than all else; cuBLASLt's
// smallest tiles begin to pay above.
inline constexpr int64_t kRowsTokensMax = 16;
inline constexpr int64_t kRowsTokensMaxF32 = 8;
// Most tokens that kPanels takes, in tiles of kPanelTokens. Each tile reads the panels again, from
// L2 mostly. Unpacking costs a read of the panels and a write and a read of 2 bytes a weight, about
// as much as three or four tiles.
inline constexpr int64_t kPanelTokens = 64;
inline constexpr int64_t kPanelsTokensMax = 128;

LinearPath ChooseLinearPath(DType dtype, int64_t tokens);

// A block of threads takes panel_warps * warp_panels panels of 16 rows; k_warps groups of warps
// divide its columns. token_tiles of 8 tokens.
struct LinearTiling {
  int token_tiles;
  int panel_warps;
  int k_warps;
  int warp_panels;

  TRIREME_HOST_DEVICE constexpr int rows() const { return 16 * panel_warps * warp_panels; }
  TRIREME_HOST_DEVICE constexpr int warps() const { return panel_warps * k_warps; }
  TRIREME_HOST_DEVICE constexpr int tokens() const { return 8 * token_tiles; }
};

// More tokens share what a block loads of x among more panels.
inline constexpr LinearTiling kPanelTilings[] = {
    {.token_tiles = 1, .panel_warps = 1, .k_warps = 8, .warp_panels = 1},
    {.token_tiles = 2, .panel_warps = 4, .k_warps = 2, .warp_panels = 1},
    {.token_tiles = 4, .panel_warps = 4, .k_warps = 1, .warp_panels = 2},
    {.token_tiles = 8, .panel_warps = 4, .k_warps = 1, .warp_panels = 2},
};
inline constexpr LinearTiling kRowsTilings[] = {
    {.token_tiles = 1, .panel_warps = 1, .k_warps = 8, .warp_panels = 1},
    {.token_tiles = 2, .panel_warps = 1, .k_warps = 8, .warp_panels = 2},
};
// Index of the tiling for a number of tokens.
int PanelTilingFor(int64_t tokens);
int RowsTilingFor(int64_t tokens);

// Columns that a group of warps takes at a time: the borders of a product's parts are multiples.
inline constexpr int64_t kPanelStepColumns = 128;
inline constexpr int64_t kRowsStepColumns = 128;

// Parts into which blocks of threads divide a product's columns (beside a block's own k_warps), so
// that small matrices fill a large GPU. Depends on the matrix and the tiling only.
int LinearSplits(const LinearTiling& tiling, int64_t rows, int64_t cols, int64_t step_columns);

// Of bfloat16 rows unpacked at a time for kDequantize: half of an H100's L2, so that the product
// mostly finds them there.
inline constexpr int64_t kDequantizeBytes = int64_t{24} << 20;
// Rows of a chunk of at most so many bytes; a multiple of 128, at least 128 (or all rows).
int64_t DequantizeRows(int64_t rows, int64_t cols, int64_t bytes);

}  // namespace trireme::cuda
