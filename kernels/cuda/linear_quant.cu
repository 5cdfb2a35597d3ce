#include "kernels/cuda/linear_quant.cuh"

#include "kernels/quant/formats.h"

namespace trireme::cuda {

void LaunchQuantProducts(const ProductsLaunch& launch) {
  quant::WithFormat(launch.dtype,
                    [&](auto format) { LaunchQuantProductsOf<decltype(format)>(launch); });
}

}  // namespace trireme::cuda
