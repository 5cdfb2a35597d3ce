#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace trireme {

class PanelSource;

// How weights are stored. Behind the floats, the block formats of GGUF: a row is blocks of
// DTypeBlock(dtype).elements consecutive columns, each packed into .bytes with its own scale. The
// last three are blocks that a reader makes of Hugging Face's quantised checkpoints, which keep
// quants and scales in tensors of their own; of kFp8 all blocks of a row have one scale
// (quant/fp8.h).
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2K,
  kQ3K,
  kQ4K,
  kQ5K,
  kQ6K,
  kIQ4NL,
  kInt8,
  kInt4Zero,
  kFp8,
};

struct DTypeInfo {
  std::string_view name;  // of GGUF's types as its tools write it
  int64_t block_elements;
  int64_t block_bytes;
};

constexpr DTypeInfo DTypeBlock(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {"F32", 1, 4};
    case DType::kF16:
      return {"F16", 1, 2};
    case DType::kBF16:
      return {"BF16", 1, 2};
    case DType::kQ4_0:
      return {"Q4_0", 32, 18};
    case DType::kQ4_1:
      return {"Q4_1", 32, 20};
    case DType::kQ5_0:
      return {"Q5_0", 32, 22};
    case DType::kQ5_1:
      return {"Q5_1", 32, 24};
    case DType::kQ8_0:
      return {"Q8_0", 32, 34};
    case DType::kQ2K:
      return {"Q2_K", 256, 84};
    case DType::kQ3K:
      return {"Q3_K", 256, 110};
    case DType::kQ4K:
      return {"Q4_K", 256, 144};
    case DType::kQ5K:
      return {"Q5_K", 256, 176};
    case DType::kQ6K:
      return {"Q6_K", 256, 210};
    case DType::kIQ4NL:
      return {"IQ4_NL", 32, 18};
    case DType::kInt8:
      return {"INT8", 32, 36};
    case DType::kInt4Zero:
      return {"INT4", 32, 19};
    case DType::kFp8:
      return {"FP8", 16, 20};
  }
  return {"?", 1, 1};
}

constexpr std::string_view DTypeName(DType dtype) { return DTypeBlock(dtype).name; }
// Of blocks that Ops unpack themselves. FP8 is multiplied as it is (Ops::MultipliesFp8), or
// widened.
constexpr bool IsQuantized(DType dtype) {
  return DTypeBlock(dtype).block_elements > 1 && dtype != DType::kFp8;
}
// Bytes of a stored row; `cols` is a multiple of the block.
constexpr int64_t DTypeRowBytes(DType dtype, int64_t cols) {
  return cols / DTypeBlock(dtype).block_elements * DTypeBlock(dtype).block_bytes;
}

// A read-only matrix of weights, [rows, cols], or a vector with rows == 1. Does not own its data.
// Row-major, rows `row_stride` elements apart; matrices of the types that the Ops pack lie in
// panels instead (Ops::Packs; quant::PackedLayout, kernels/quant/packed.h). Of kFp8 the rows are
// bytes of E4M3, and a float for each row, its scale, comes behind the last.
struct Weight {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;         // of floats
  bool packed = false;            // as PackedLayout says, not row-major
  int64_t block_offset = 0;       // of PackedLayout
  PanelSource* panels = nullptr;  // of packed ones that may not be at `data` yet
};

// All elements of the weight as floats, row by row.
std::vector<float> ToFloats(const Weight& weight);

}  // namespace trireme
