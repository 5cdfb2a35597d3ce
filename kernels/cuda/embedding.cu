#include "kernels/cuda/embedding.h"

#include "base/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shape.h"
#include "kernels/cuda/vectors.cuh"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 128;

// A rank that does not hold the row adds +0, which turns -0 into +0: so does the one that does.
__device__ float Scaled(float x, float scale) { return __fadd_rn(__fmul_rn(x, scale), 0.0f); }

// One token a block.
template <class T>
__global__ void __launch_bounds__(kThreads) EmbeddingKernel(const EmbeddingArgs a, bool in_fours) {
  const int64_t cols = a.table.cols;
  const int64_t index = a.ids[blockIdx.x] - a.first_id;
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
  CHECK(!args.table.packed);
  if (args.tokens == 0) return;
  const bool in_fours =
      InFours(args.table.cols, args.out, args.table.data) && args.table.row_stride % 4 == 0;
  const LaunchShape shape = {
      .grid = Blocks(args.tokens, 1), .block = dim3(kThreads), .stream = args.stream};
  switch (args.table.dtype) {
    case DType::kF32:
      return Launch(EmbeddingKernel<float>, shape, args, in_fours);
    case DType::kF16:
      return Launch(EmbeddingKernel<__half>, shape, args, in_fours);
    case DType::kBF16:
      return Launch(EmbeddingKernel<__nv_bfloat16>, shape, args, in_fours);
    default:
      CHECK(false);  // quantised tables lie in panels
  }
}

}  // namespace trireme::cuda
