#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "base/file.h"
#include "kernels/quant/packed.h"
#include "kernels/tensor.h"

namespace trireme {

inline std::string SourceDir() {
  const char* dir = std::getenv("TRIREME_SOURCE_DIR");
  return dir != nullptr ? dir : TRIREME_SOURCE_DIR;
}

// Quantised test matrices: stored blocks and their values by the gguf package
// (tools/make_quant_golden.py), under the TRIREME_SOURCE_DIR of the environment, as in a bundle, or
// of the build.

constexpr DType kQuantTypes[] = {DType::kQ4_0,    DType::kQ4_1, DType::kQ5_0,  DType::kQ5_1,
                                 DType::kQ8_0,    DType::kQ2K,  DType::kQ3K,   DType::kQ4K,
                                 DType::kQ5K,     DType::kQ6K,  DType::kIQ4NL, DType::kInt8,
                                 DType::kInt4Zero};

// The golden file's rows of one format, as many of them as wanted and each `repeats` times over.
class Stored {
 public:
  explicit Stored(DType dtype, int repeats = 1) : dtype_(dtype) {
    static const nlohmann::json kGolden =
        nlohmann::json::parse(*ReadFile(SourceDir() + "/tests/golden/quant.json", 1 << 20));
    const int64_t cols = kGolden["cols"];
    rows_ = kGolden["rows"];
    cols_ = cols * repeats;
    const auto& entry = kGolden["formats"][std::string(DTypeName(dtype))];
    std::string stored;
    std::string values;
    EXPECT_TRUE(absl::Base64Unescape(entry["stored"].get<std::string>(), &stored));
    EXPECT_TRUE(absl::Base64Unescape(entry["values"].get<std::string>(), &values));
    for (int64_t i = 0; i < rows_ * repeats; ++i) {
      const int64_t row_bytes = DTypeRowBytes(dtype, cols);
      const int64_t value_bytes = cols * int64_t{sizeof(float)};
      bytes_ += stored.substr(i / repeats * row_bytes, row_bytes);
      values_.resize(values_.size() + cols);
      std::memcpy(&values_[i * cols], &values[i / repeats * value_bytes], value_bytes);
    }
  }

  int64_t cols() const { return cols_; }
  float Value(int64_t row, int64_t col) const { return values_[row % rows_ * cols_ + col]; }

  // Rows 0 to rows - 1, columns from `begin` to `end`; both multiples of 32.
  std::vector<std::byte> Pack(int64_t rows, int64_t begin, int64_t end, Weight& weight) const {
    const DTypeInfo info = DTypeBlock(dtype_);
    const int64_t row_bytes = DTypeRowBytes(dtype_, cols_);
    const int64_t first = begin / info.block_elements;
    const quant::PackedLayout layout(dtype_, rows, end - begin, begin % info.block_elements / 32);
    std::vector<std::byte> packed(layout.bytes());
    for (int64_t panel = 0; panel < layout.panels(); ++panel) {
      std::vector<std::byte> stored(16 * row_bytes);
      for (int64_t r = 0; r < 16; ++r) {
        std::memcpy(stored.data() + r * row_bytes,
                    bytes_.data() + (panel * 16 + r) % rows_ * row_bytes + first * info.block_bytes,
                    row_bytes - first * info.block_bytes);
      }
      quant::PackPanel(dtype_, layout, panel, stored.data(), row_bytes,
                       packed.data() + panel * layout.panel_bytes);
    }
    weight = {.data = packed.data(),
              .dtype = dtype_,
              .rows = rows,
              .cols = end - begin,
              .row_stride = 0,
              .packed = true,
              .block_offset = layout.block_offset};
    return packed;
  }

 private:
  DType dtype_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  std::string bytes_;
  std::vector<float> values_;
};

}  // namespace trireme
