// The tests of kernels/cuda on a real GPU. Ends with 77 where there is none.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <iostream>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::cerr << "skipped: no GPU here: " << cudaGetErrorString(error) << std::endl;
    return 77;
  }
  return RUN_ALL_TESTS();
}
