#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/quant/planes.h"
#include "kernels/tensor.h"

namespace trireme::quant {

// Types whose matrices lie in panels: quantised ones and bfloat16.
constexpr bool IsPacked(DType dtype) { return IsQuantized(dtype) || dtype == DType::kBF16; }

// How such a matrix [rows, cols] lies in a rank's memory: panels of 16 rows, the last filled up
// with zeros. A panel is its super-blocks' headers, then a unit for each block of 32 columns (2 of
// bfloat16), so that a product reads it from end to end. Rows may begin and end inside a
// super-block, where tensor parallelism cuts: `block_offset` is how many blocks of 32 columns of
// the first one come before. No larger than the file's blocks but for Q4_K and Q5_K (3 %) and Q3_K
// (4 %), whose small scales take whole bytes.
struct PackedLayout {
  PackedLayout(DType dtype, int64_t rows, int64_t cols, int64_t block_offset);

  int64_t rows;
  int64_t cols;
  int64_t blocks;
  int64_t block_offset;  // 0 to 7
  int64_t unit_bytes;
  int64_t header_bytes;  // 0: none
  int64_t headers;       // of a panel
  int64_t panel_bytes;

  int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  int64_t bytes() const { return panels() * panel_bytes; }
  // From the panel's begin.
  int64_t UnitAt(int64_t block) const { return headers * header_bytes + block * unit_bytes; }
  int64_t HeaderAt(int64_t block) const { return (block_offset + block) / 8 * header_bytes; }
};

// Packs panel `panel` from its rows' stored blocks, `stored_row_bytes` apart: those that hold the
// columns, so the first super-block from its begin. `to` is the panel's panel_bytes, zeroed.
void PackPanel(DType dtype, const PackedLayout& layout, int64_t panel, const std::byte* stored,
               int64_t stored_row_bytes, std::byte* to);

}  // namespace trireme::quant
