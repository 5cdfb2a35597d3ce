#include "kernels/cuda/rows.h"

#include "base/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shape.h"
#include "kernels/cuda/vectors.cuh"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 256;

// Columns are the grid's x, rows its y.
template <bool in_fours>
__global__ void __launch_bounds__(kThreads) GatherRowsKernel(const GatherRowsArgs a) {
  const int64_t col = GlobalThread() * (in_fours ? 4 : 1);
  if (col >= a.cols) return;
  for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    const int64_t from = a.index[row];
    const float* x = a.x + from * a.cols + col;
    float* out = a.out + row * a.cols + col;
    if constexpr (in_fours) {
      StoreFour(out, from < 0 ? make_float4(0, 0, 0, 0) : LoadFour(x));
    } else {
      *out = from < 0 ? 0.0f : *x;
    }
  }
}

template <bool in_fours>
__global__ void __launch_bounds__(kThreads) MergeSlicesKernel(const MergeSlicesArgs a) {
  const int64_t col = GlobalThread() * (in_fours ? 4 : 1);
  if (col >= a.cols) return;
  const int64_t rank = col / a.slice;
  const int64_t in_slice = col % a.slice;
  for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    const float* from = a.slices + (rank * a.rows + row) * a.slice + in_slice;
    float* out = a.out + row * a.cols + col;
    if constexpr (in_fours) {
      StoreFour(out, LoadFour(from));
    } else {
      *out = *from;
    }
  }
}

template <class Args>
void LaunchByRows(void (*fours)(Args), void (*ones)(Args), const Args& args, bool in_fours) {
  if (args.rows == 0 || args.cols == 0) return;
  LaunchShape shape = {.grid = Blocks(args.cols, (in_fours ? 4 : 1) * kThreads),
                       .block = dim3(kThreads),
                       .stream = args.stream};
  shape.grid.y = RowBlocks(args.rows);
  Launch(in_fours ? fours : ones, shape, args);
}

}  // namespace

void GatherRows(const GatherRowsArgs& args) {
  LaunchByRows<GatherRowsArgs>(GatherRowsKernel<true>, GatherRowsKernel<false>, args,
                               InFours(args.cols, args.x, args.out));
}

void MergeSlices(const MergeSlicesArgs& args) {
  CHECK(args.cols <= args.ranks * args.slice);
  LaunchByRows<MergeSlicesArgs>(MergeSlicesKernel<true>, MergeSlicesKernel<false>, args,
                                InFours(args.cols, args.slices, args.out) && args.slice % 4 == 0);
}

}  // namespace trireme::cuda
