#include "kernels/cuda/embedding.h"

#include "base/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/one_lane.cuh"
#include "kernels/cuda/shape.h"
#include "kernels/cuda/vectors.cuh"
#include "kernels/quant/formats.h"
#include "kernels/quant/packed.h"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 128;

// A rank that does not hold the row adds +0, which turns -0 into +0: so does the one that does.
__device__ float Scaled(float x, float scale) { return __fadd_rn(__fmul_rn(x, scale), 0.0f); }

__device__ int64_t IdOf(const EmbeddingArgs& a, unsigned token) {
  const int32_t id = a.ids[token];
  return id >= 0 ? id : a.sampled[-1 - id];
}

// Where a panel's parts are (quant::PackedLayout).
struct Panels {
  int64_t bytes;
  int64_t units_at;
  int32_t blocks;
  int32_t block_offset;
};

// One token a block; a thread has the quads q and q + 4 of a unit (quant/planes.h).
template <class F>
__global__ void __launch_bounds__(kThreads)
    QuantEmbeddingKernel(const EmbeddingArgs a, const Panels panels) {
  const int64_t index = IdOf(a, blockIdx.x) - a.first_id;
  const bool held = index >= 0 && index < a.table.rows;
  const std::byte* panel = static_cast<const std::byte*>(a.table.data) +
                           (held ? index / quant::kPanelRows * panels.bytes : 0);
  const int in_panel = held ? static_cast<int>(index % quant::kPanelRows) : 0;
  const int quad = static_cast<int>(threadIdx.x) % 4;
  for (int block = static_cast<int>(threadIdx.x) / 4; block < panels.blocks;
       block += kThreads / 4) {
    float* to =
        a.out + blockIdx.x * a.table.cols + int64_t{block} * quant::kBlockColumns + 4 * quad;
    if (!held) {  // there may be no panel at all
      StoreFour(to, make_float4(0, 0, 0, 0));
      StoreFour(to + 16, make_float4(0, 0, 0, 0));
      continue;
    }
    const std::byte* unit = panel + panels.units_at + int64_t{block} * F::kUnitBytes;
    const std::byte* header = panel + int64_t{panels.block_offset + block} / 8 * F::kHeaderBytes;
    quant::Quads<OneLane> quads;
    float scales[2];
    float mins[2] = {};
    F::template GetQuads<OneLane>(unit, in_panel + quant::kPanelRows * quad, quads);
    F::template GetScales<OneLane>(unit, header, in_panel, scales, mins);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = scales[half * (F::kHalves - 1)];
      const float min = mins[half * (F::kHalves - 1)];
      const auto value = [&](int c) {
        const int q = static_cast<int>((quads[4 * half] >> (8 * c)) & 255u) - F::kOffset;
        const float product = __fmul_rn(static_cast<float>(q), scale);
        return Scaled(F::kMins ? __fsub_rn(product, min) : product, a.scale);
      };
      StoreFour(to + 16 * half, make_float4(value(0), value(1), value(2), value(3)));
    }
  }
}

void QuantEmbedding(const EmbeddingArgs& args, const LaunchShape& shape) {
  const Weight& table = args.table;
  const quant::PackedLayout layout(table.dtype, table.rows, table.cols, table.block_offset);
  CHECK(table.packed && InFours(0, args.out));
  const Panels panels = {.bytes = layout.panel_bytes,
                         .units_at = layout.UnitAt(0),
                         .blocks = static_cast<int32_t>(layout.blocks),
                         .block_offset = static_cast<int32_t>(layout.block_offset)};
  quant::WithFormat(table.dtype, [&](auto format) {
    Launch(QuantEmbeddingKernel<decltype(format)>, shape, args, panels);
  });
}

// One token a block.
template <class T>
__global__ void __launch_bounds__(kThreads) EmbeddingKernel(const EmbeddingArgs a, bool in_fours) {
  const int64_t cols = a.table.cols;
  const int64_t index = IdOf(a, blockIdx.x) - a.first_id;
  const bool held = index >= 0 && index < a.table.rows;
  const T* from = static_cast<const T*>(a.table.data) + (held ? index * a.table.row_stride : 0);
  float* to = a.out + blockIdx.x * cols;
  if (in_fours) {
    for (int64_t i = int64_t{threadIdx.x} * 4; i < cols; i += kThreads * 4) {
      const float4 row = held ? LoadFour(from + i) : make_float4(0, 0, 0, 0);
      StoreFour(to + i, MapFour(row, [&](float x) { return Scaled(x, a.scale); }));
    }
  } else {
    for (int64_t i = threadIdx.x; i < cols; i += kThreads) {
      to[i] = held ? Scaled(Widen(from[i]), a.scale) : 0.0f;
    }
  }
}

}  // namespace

void Embedding(const EmbeddingArgs& args) {
  if (args.tokens == 0) return;
  const bool in_fours =
      InFours(args.table.cols, args.out, args.table.data) && args.table.row_stride % 4 == 0;
  const LaunchShape shape = {
      .grid = Blocks(args.tokens, 1), .block = dim3(kThreads), .stream = args.stream};
  if (IsQuantized(args.table.dtype)) return QuantEmbedding(args, shape);
  CHECK(!args.table.packed);
  switch (args.table.dtype) {
    case DType::kF32:
      return Launch(EmbeddingKernel<float>, shape, args, in_fours);
    case DType::kF16:
      return Launch(EmbeddingKernel<__half>, shape, args, in_fours);
    case DType::kBF16:
      return Launch(EmbeddingKernel<__nv_bfloat16>, shape, args, in_fours);
    default:
      CHECK(false);  // there are no others
  }
}

}  // namespace trireme::cuda
