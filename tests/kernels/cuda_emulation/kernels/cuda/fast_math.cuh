#pragma once

// kernels/cuda/fast_math.cuh for the emulation.

#include <cmath>

namespace trireme::cuda {

inline float Exp2(float x) { return std::exp2(x); }

}  // namespace trireme::cuda
