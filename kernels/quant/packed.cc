#include "kernels/quant/packed.h"

#include <algorithm>

#include "kernels/quant/bf16.h"
#include "kernels/quant/formats.h"

namespace trireme::quant {

PackedLayout::PackedLayout(DType dtype, int64_t rows, int64_t cols, int64_t block_offset)
    : rows(rows), cols(cols), blocks(cols / kBlockColumns), block_offset(block_offset) {
  if (dtype == DType::kBF16) {
    blocks = (cols + Bf16::kColumns - 1) / Bf16::kColumns;
    unit_bytes = Bf16::kUnitBytes;
    header_bytes = 0;
    headers = 0;
    panel_bytes = blocks * unit_bytes;
    return;
  }
  CHECK(cols % kBlockColumns == 0 && block_offset >= 0 && block_offset < 8);
  WithFormat(dtype, [this](auto format) {
    unit_bytes = format.kUnitBytes;
    header_bytes = format.kHeaderBytes;
  });
  CHECK(block_offset == 0 || header_bytes > 0);
  headers = header_bytes == 0 ? 0 : (block_offset + blocks + 7) / 8;
  panel_bytes = headers * header_bytes + blocks * unit_bytes;
}

void PackPanel(DType dtype, const PackedLayout& layout, int64_t panel, const std::byte* stored,
               int64_t stored_row_bytes, std::byte* to) {
  const int rows =
      static_cast<int>(std::min<int64_t>(kPanelRows, layout.rows - panel * kPanelRows));
  if (dtype == DType::kBF16) {
    for (int lane = 0; lane < rows; ++lane) {
      Bf16::Pack(stored + lane * stored_row_bytes, layout.cols, lane, to);
    }
    return;
  }
  const DTypeInfo info = DTypeBlock(dtype);
  const int64_t per_stored = info.block_elements / kBlockColumns;
  WithFormat(dtype, [&](auto format) {
    for (int64_t b = 0; b < layout.blocks; ++b) {
      const int64_t at = b + layout.block_offset;
      const std::byte* from = stored + at / per_stored * info.block_bytes;
      std::byte* unit = to + layout.UnitAt(b);
      std::byte* header = to + layout.HeaderAt(b);
      for (int lane = 0; lane < rows; ++lane) {
        format.Pack(from + lane * stored_row_bytes, static_cast<int>(at % per_stored), lane, unit,
                    header);
      }
    }
  });
}

}  // namespace trireme::quant
