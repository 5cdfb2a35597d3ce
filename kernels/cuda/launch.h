#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

namespace trireme::cuda {

struct LaunchShape {
  dim3 grid = dim3(1);
  dim3 block = dim3(32);
  size_t shared_bytes = 0;  // of dynamic shared memory
  cudaStream_t stream = nullptr;
};

// Starts a kernel; it runs in the stream's order. What is wrong with the launch is the runtime's
// last error, as with <<<>>>: whoever composes launches asks for it once (cudaGetLastError).
template <class... Params, class... Args>
void Launch(void (*kernel)(Params...), const LaunchShape& shape, Args&&... args) {
  constexpr size_t kDefaultMax = 48 * 1024;  // a block gets more only on demand
  if (shape.shared_bytes > kDefaultMax) {
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shape.shared_bytes));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchKernelEx(&config, kernel, Params(std::forward<Args>(args))...);
}

}  // namespace trireme::cuda
