#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/kv_layer.h"

namespace trireme::cuda {

// Rotary position embedding of queries and keys (Su et al. 2021) and the write of keys and values
// to the cache, in one launch: what Ops::Rope and Ops::StoreKv compute on the CPU, bit for bit
// but for denormal numbers and the payload of NaNs. Everything is in device memory.
//
// Each part may be left out: without q no queries, without k nothing is stored, without cos nothing
// is rotated. Tokens with position -1 are padding: nothing of theirs is rotated or stored.
struct RopeArgs {
  float* q = nullptr;  // [tokens, heads, head_dim], rotated in place
  int64_t heads = 0;
  const float* k = nullptr;  // [tokens, cache.num_kv_heads, head_dim]; stays as it is
  const float* v = nullptr;
  int64_t head_dim = 0;
  const float* cos = nullptr;  // [rows, head_dim / 2]
  const float* sin = nullptr;
  const int32_t* angle_rows = nullptr;  // [tokens]: a token's row of cos and sin; null: token t has
                                        // row t. With a table of all positions: `positions`.
  const int32_t* positions = nullptr;   // [tokens]; null: none is padding and k must be null
  const int32_t* sequence_of_token = nullptr;  // [tokens]: rows of block_tables
  const int32_t* block_tables = nullptr;       // [sequences, blocks_max]: pages of the cache
  int64_t blocks_max = 0;
  KvLayer cache = {};
  int64_t tokens = 0;
  cudaStream_t stream = nullptr;
};
void RopeAndStoreKv(const RopeArgs& args);

}  // namespace trireme::cuda
