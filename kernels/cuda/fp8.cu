#include "kernels/cuda/fp8.h"

#include "kernels/cuda/block_scan.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shape.h"
#include "kernels/cuda/vectors.cuh"
#include "kernels/quant/fp8.h"

namespace trireme::cuda {
namespace {

constexpr int kThreads = kScanThreads;

// A block for each token. Magnitudes are in order as whole numbers, with NaNs at the end.
__global__ void __launch_bounds__(kThreads) QuantizeKernel(const QuantizeFp8Args a) {
  const float* x = a.x + int64_t{blockIdx.x} * a.cols;
  uint64_t largest = 0;
  for (int64_t i = threadIdx.x * 4; i < a.cols; i += kThreads * 4) {
    const float4 four = LoadFour(x + i);
    const float values[] = {four.x, four.y, four.z, four.w};
    for (const float value : values) {
      const uint64_t magnitude = __float_as_uint(value) & 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  largest = BlockMax(largest);
  const float top = __uint_as_float(static_cast<unsigned>(largest));
  const float scale = largest == 0 ? 1.0f : __fdiv_rn(top, quant::kE4m3Max);
  if (threadIdx.x == 0) a.scales[blockIdx.x] = scale;
  uint32_t* out = reinterpret_cast<uint32_t*>(a.out + int64_t{blockIdx.x} * a.cols);
  for (int64_t i = threadIdx.x * 4; i < a.cols; i += kThreads * 4) {
    const float4 four = LoadFour(x + i);
    const float values[] = {four.x, four.y, four.z, four.w};
    uint32_t word = 0;
    for (int j = 0; j < 4; ++j) {
      word |= uint32_t{quant::ToE4m3(__fdiv_rn(values[j], scale))} << (8 * j);
    }
    out[i / 4] = word;
  }
}

__global__ void __launch_bounds__(kThreads) FinishKernel(const FinishFp8Args a) {
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n >= a.rows) return;
  float* const y = a.y + int64_t{blockIdx.y} * a.rows + n;
  float value = *y;
  if (a.x_scales != nullptr) value = value * a.x_scales[blockIdx.y] * a.weight_scales[n];
  *y = a.bias == nullptr ? value : value + a.bias[n];
}

}  // namespace

void LaunchQuantizeFp8(const QuantizeFp8Args& args) {
  Launch(QuantizeKernel,
         {.grid = dim3(static_cast<unsigned>(args.tokens)),
          .block = dim3(kThreads),
          .stream = args.stream},
         args);
}

void LaunchFinishFp8(const FinishFp8Args& args) {
  if (args.x_scales == nullptr && args.bias == nullptr) return;
  Launch(FinishKernel,
         {.grid = dim3(static_cast<unsigned>((args.rows + kThreads - 1) / kThreads),
                       static_cast<unsigned>(args.tokens)),
          .block = dim3(kThreads),
          .stream = args.stream},
         args);
}

}  // namespace trireme::cuda
