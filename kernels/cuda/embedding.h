#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace trireme::cuda {

// out[t, :] = table[id - first_id, :] * scale, or zeros where the table does not hold the id, which
// is ids[t], or where that is -1 - i, sampled[i]: the bits of Ops::Embedding on the CPU. Everything
// is in device memory, the table's data too: row-major float32, float16 or bfloat16, or a quantised
// table in panels (quant::PackedLayout), which like `out` then is aligned to 16 bytes.
struct EmbeddingArgs {
  const int32_t* ids = nullptr;  // [tokens]
  const int32_t* sampled = nullptr;
  Weight table = {};
  int64_t first_id = 0;
  float scale = 1.0f;
  float* out = nullptr;  // [tokens, table.cols]
  int64_t tokens = 0;
  cudaStream_t stream = nullptr;
};
void Embedding(const EmbeddingArgs& args);

}  // namespace trireme::cuda
