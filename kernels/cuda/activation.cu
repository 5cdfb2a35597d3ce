#include "kernels/cuda/activation.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/shape.h"
#include "kernels/cuda/vectors.cuh"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 256;

struct Silu {
  __device__ float operator()(float x, float up) const { return x / (1.0f + expf(-x)) * up; }
};

// x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 x^3). Since 1 + tanh(u) is
// 2 / (1 + e^-2u), this is x / (1 + e^-2u), which loses no digits where tanh(u) is near -1.
struct GeluTanh {
  __device__ float operator()(float x, float up) const {
    constexpr float kLinear = -1.5957691216057308f;  // -2 sqrt(2 / pi)
    constexpr float kCubic = kLinear * 0.044715f;
    return x / (1.0f + expf(x * (x * x * kCubic + kLinear))) * up;
  }
};

// Four elements a thread; the last thread takes what is left one by one.
template <class F>
__global__ void __launch_bounds__(kThreads) GatedKernel(const GatedArgs a, bool in_fours) {
  const int64_t i = GlobalThread() * 4;
  const F f;
  if (in_fours && i + 4 <= a.n) {
    StoreFour(a.gate + i, MapFour(LoadFour(a.gate + i), LoadFour(a.up + i), f));
    return;
  }
  for (int64_t j = i; j < i + 4 && j < a.n; ++j) a.gate[j] = f(a.gate[j], a.up[j]);
}

template <class F>
void Gated(const GatedArgs& args) {
  if (args.n == 0) return;
  Launch(GatedKernel<F>,
         {.grid = Blocks(args.n, 4 * kThreads), .block = dim3(kThreads), .stream = args.stream},
         args, InFours(0, args.gate, args.up));
}

// The block's row is y, its columns are x, so that no thread divides.
template <bool in_fours>
__global__ void __launch_bounds__(kThreads) AddResidualKernel(const AddResidualArgs a) {
  const int64_t col = GlobalThread() * (in_fours ? 4 : 1);
  if (col >= a.cols) return;
  for (int64_t row = blockIdx.y; row < a.rows; row += gridDim.y) {
    float* hidden = a.hidden + row * a.cols + col;
    const float* delta = a.delta + row * a.cols + col;
    if constexpr (in_fours) {
      const auto add = [](float x, float y) { return x + y; };
      float4 sum = MapFour(LoadFour(hidden), LoadFour(delta), add);
      if (a.bias != nullptr) sum = MapFour(sum, LoadFour(a.bias + col), add);
      StoreFour(hidden, sum);
    } else {
      float sum = *hidden + *delta;
      if (a.bias != nullptr) sum += a.bias[col];
      *hidden = sum;
    }
  }
}

}  // namespace

void SiluMul(const GatedArgs& args) { Gated<Silu>(args); }
void GeluTanhMul(const GatedArgs& args) { Gated<GeluTanh>(args); }

void AddResidual(const AddResidualArgs& args) {
  if (args.rows == 0 || args.cols == 0) return;
  const bool in_fours = InFours(args.cols, args.hidden, args.delta, args.bias);
  LaunchShape shape = {.grid = Blocks(args.cols, (in_fours ? 4 : 1) * kThreads),
                       .block = dim3(kThreads),
                       .stream = args.stream};
  shape.grid.y = RowBlocks(args.rows);
  Launch(in_fours ? AddResidualKernel<true> : AddResidualKernel<false>, shape, args);
}

}  // namespace trireme::cuda
