#pragma once

// A function that CUDA kernels call too; nothing to other compilers.
#ifdef __CUDACC__
#define TRIREME_HOST_DEVICE __host__ __device__
#else
#define TRIREME_HOST_DEVICE
#endif
