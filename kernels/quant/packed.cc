#include "kernels/quant/packed.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/quant/bf16.h"
#include "kernels/quant/formats.h"

namespace trireme::quant {
namespace {

using Words = uint32_t __attribute__((vector_size(16)));

Words LoadWords(const std::byte* p) {
  Words words;
  std::memcpy(&words, p, sizeof(words));
  return words;
}

// Words of four rows, as their columns.
std::array<Words, 4> Transposed(Words a, Words b, Words c, Words d) {
  const Words ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Words ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Words cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Words cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return {__builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5),
          __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
          __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
          __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
}

// Of 16 bytes of each of four rows, word i to `to` + 64 i: a quarter of the stores that Pack of one
// row after the other takes, for which loading weights waits. `flip` is added to each, bit by bit.
void StoreFourRows(const std::byte* from, int64_t row_bytes, uint32_t flip, std::byte* to) {
  const auto columns = Transposed(LoadWords(from), LoadWords(from + row_bytes),
                                  LoadWords(from + 2 * row_bytes), LoadWords(from + 3 * row_bytes));
  for (size_t i = 0; i < columns.size(); ++i) {
    const Words flipped = columns[i] ^ flip;
    std::memcpy(to + i * 4 * kPanelRows, &flipped, sizeof(flipped));
  }
}

// As Bf16::Pack of four rows.
void PackFourRows(const std::byte* stored, int64_t row_bytes, int64_t columns, int lane,
                  std::byte* units) {
  constexpr int64_t kStep = 8;  // columns of four words
  const int64_t whole = columns / kStep * kStep;
  std::byte* to = units + lane * 4;
  for (int64_t k = 0; k < whole; k += kStep, to += 4 * Bf16::kUnitBytes) {
    StoreFourRows(stored + 2 * k, row_bytes, /*flip=*/0, to);
  }
  for (int row = 0; row < 4; ++row) {
    Bf16::Pack(stored + row * row_bytes + 2 * whole, columns - whole, lane + row,
               units + whole / Bf16::kColumns * Bf16::kUnitBytes);
  }
}

// As Q8_0::Pack of four rows.
void PackFourRows(const std::byte* stored, int64_t row_bytes, int lane, std::byte* unit) {
  for (int half = 0; half < 2; ++half) {
    StoreFourRows(stored + 2 + 16 * half, row_bytes, Q8_0::kSigns,
                  unit + 4 * half * 4 * kPanelRows + lane * 4);
  }
  for (int row = 0; row < 4; ++row) {
    PutHalf(unit + kBytePlane, lane + row, stored + row * row_bytes);
  }
}

}  // namespace

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
    int lane = 0;
    for (; lane + 4 <= rows; lane += 4) {
      PackFourRows(stored + lane * stored_row_bytes, stored_row_bytes, layout.cols, lane, to);
    }
    for (; lane < rows; ++lane) {
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
      int lane = 0;
      if constexpr (decltype(format)::kDType == DType::kQ8_0) {
        for (; lane + 4 <= rows; lane += 4) {
          PackFourRows(from + lane * stored_row_bytes, stored_row_bytes, lane, unit);
        }
      }
      for (; lane < rows; ++lane) {
        format.Pack(from + lane * stored_row_bytes, static_cast<int>(at % per_stored), lane, unit,
                    header);
      }
    }
  });
}

}  // namespace trireme::quant
