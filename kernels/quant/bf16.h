#pragma once

#include "kernels/quant/format.h"

namespace trireme::quant {

// bfloat16 in panels: a unit is 16 rows x 2 columns, each row's pair in a word.
struct Bf16 {
  static constexpr int kColumns = 2;
  static constexpr int kUnitBytes = 4 * kPanelRows;

  // `columns` of a row, the last pair filled up with zero.
  static void Pack(const std::byte* stored, int64_t columns, int lane, std::byte* units) {
    std::byte* to = units + lane * 4;
    for (int64_t k = 0; k + 1 < columns; k += 2, to += kUnitBytes) {
      StoreWord(to, LoadWord(stored + 2 * k));
    }
    if (columns % 2 != 0) StoreWord(to, LoadHalf(stored + 2 * (columns - 1)));
  }
};

}  // namespace trireme::quant
