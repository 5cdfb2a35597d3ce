#include <cstddef>
#include <cstdint>

#include "kernels/cuda/bf16_pairs.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_kernels.h"
#include "kernels/cuda/one_lane.cuh"
#include "kernels/quant/formats.h"
#include "kernels/quant/packed.h"

namespace trireme::cuda {
namespace {

constexpr int kWarps = 8;

struct PanelArgs {
  const std::byte* panels;  // from the first wanted one on
  uint16_t* out;            // [rows, cols]
  int64_t panel_bytes;
  int64_t units_at;
  int32_t rows;
  int32_t blocks;
  int32_t block_offset;
};

// A warp a unit: thread (g, q) the quads q and q + 4 of rows g and g + 8.
template <class F>
__global__ void __launch_bounds__(32 * kWarps) DequantizeKernel(const PanelArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int block = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (block >= a.blocks) return;
  const std::byte* panel = a.panels + int64_t{blockIdx.y} * a.panel_bytes;
  const std::byte* unit = panel + a.units_at + int64_t{block} * F::kUnitBytes;
  const std::byte* header = panel + int64_t{(a.block_offset + block) / 8} * F::kHeaderBytes;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int in_panel = lane / 4 + 8 * i;
    const int64_t row = int64_t{blockIdx.y} * quant::kPanelRows + in_panel;
    if (row >= a.rows) break;
    quant::Quads<OneLane> quads;
    F::template GetQuads<OneLane>(unit, in_panel + quant::kPanelRows * (lane % 4), quads);
    float scales[2];
    float mins[2] = {};
    F::template GetScales<OneLane>(unit, header, in_panel, scales, mins);
    uint16_t* to = a.out + (row * a.blocks + block) * quant::kBlockColumns + 4 * (lane % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = scales[half * (F::kHalves - 1)];
      const float min = mins[half * (F::kHalves - 1)];
      const auto value = [&](int c) {
        const int q = static_cast<int>((quads[4 * half] >> (8 * c)) & 255u) - F::kOffset;
        const float product = scale * static_cast<float>(q);
        return F::kMins ? product - min : product;
      };
      *reinterpret_cast<uint2*>(to + 16 * half) =
          uint2{PairOf(value(0), value(1)), PairOf(value(2), value(3))};
    }
  }
}

}  // namespace

void LaunchDequantize(const DequantizeArgs& args) {
  const Weight& w = args.weight;
  const quant::PackedLayout layout(w.dtype, w.rows, w.cols, w.block_offset);
  const PanelArgs panels = {.panels = static_cast<const std::byte*>(w.data) +
                                      args.row_begin / quant::kPanelRows * layout.panel_bytes,
                            .out = static_cast<uint16_t*>(args.out),
                            .panel_bytes = layout.panel_bytes,
                            .units_at = layout.UnitAt(0),
                            .rows = static_cast<int32_t>(args.rows),
                            .blocks = static_cast<int32_t>(layout.blocks),
                            .block_offset = static_cast<int32_t>(w.block_offset)};
  const LaunchShape shape = {
      .grid = dim3(static_cast<unsigned>((layout.blocks + kWarps - 1) / kWarps),
                   static_cast<unsigned>((args.rows + quant::kPanelRows - 1) / quant::kPanelRows)),
      .block = dim3(32 * kWarps),
      .stream = args.stream};
  quant::WithFormat(
      w.dtype, [&](auto format) { Launch(DequantizeKernel<decltype(format)>, shape, panels); });
}

}  // namespace trireme::cuda
