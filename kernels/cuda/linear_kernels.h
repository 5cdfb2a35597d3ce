#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/tensor.h"

namespace trireme::cuda {

// The launches that Linear (linear.h) is composed of. All pointers are to device memory.

inline constexpr int kProductsMax = 4;  // of a launch

// One product of a launch.
struct ProductPart {
  const std::byte* weight;
  const float* bias;  // null: none
  float* y;           // [tokens, rows]
  float* partials;    // [splits, tokens, rows]; unused if splits is 1
  int32_t* counters;  // a zero for each row block and token tile; zero again after the launch
  const int32_t* token_range;  // as LinearProduct's; with splits 1 only
  int32_t first_block;         // of the launch's; INT32_MAX: there is no such product
  int32_t splits;
  int32_t rows;
  int32_t row_stride;    // of row-major weights, in elements
  int32_t block_offset;  // of panels
  int64_t panel_bytes;
  int64_t units_at;  // from a panel's begin
};

struct ProductsArgs {
  ProductPart products[kProductsMax];
  const void* x;   // rounded (RoundActivations), or float32 for float32 weights
  int32_t tokens;  // of x, or at most of a token range
  int32_t cols;
  int32_t x_stride;  // elements
};

struct ProductsLaunch {
  ProductsArgs args;
  DType dtype;     // of all weights
  int tiling;      // index into kPanelTilings or kRowsTilings
  int32_t blocks;  // of all products
  bool aligned;    // row-major: rows begin at multiples of 16 bytes and hold whole ones
  cudaStream_t stream;
};

void LaunchQuantProducts(const ProductsLaunch& launch);  // DType: quantised
void LaunchRowsProducts(const ProductsLaunch& launch);   // kBF16, kF16
void LaunchF32Products(const ProductsLaunch& launch);    // kF32; no splits
inline constexpr int kF32Rows = 16;                      // of a block of LaunchF32Products

// How rounded activations lie: a row of RoundedStride(cols) elements a token, its end filled up
// with zeros.
enum class ActivationOrder {
  kPlain,
  kPanels,  // each 32 columns as thread q of a matrix unit's four reads them: of 4q..4q+3 and of
            // 16+4q..16+4q+3, columns 0, 2, 1, 3 each
};
TRIREME_HOST_DEVICE constexpr int64_t RoundedStride(int64_t cols) { return (cols + 31) / 32 * 32; }

struct RoundArgs {
  const float* x;  // [tokens, cols]
  int64_t tokens;
  int64_t cols;
  DType to;  // kBF16, or kF16 with magnitudes above 65504 cut to it
  ActivationOrder order;
  void* out;
  cudaStream_t stream;
};
void LaunchRoundActivations(const RoundArgs& args);

// Rows [row_begin, row_begin + rows) of panels as bfloat16 [rows, cols], rounded to nearest.
// row_begin is a multiple of 16.
struct DequantizeArgs {
  Weight weight;
  int64_t row_begin;
  int64_t rows;
  void* out;
  cudaStream_t stream;
};
void LaunchDequantize(const DequantizeArgs& args);

}  // namespace trireme::cuda
