#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops.h"

namespace trireme {

// Operations that take a step's batch, for tests that have only what an operation needs of one.

inline StepBatch BatchOf(std::span<const TokenPlace> places) {
  StepBatch batch;
  batch.ids.resize(places.size());
  batch.places.assign(places.begin(), places.end());
  return batch;
}

// x [tokens, heads, head_dim]; cos and sin [tokens, head_dim / 2].
inline void RotateHeads(Ops& ops, std::span<float> x, int64_t heads, int64_t head_dim,
                        std::span<const float> cos, std::span<const float> sin) {
  const std::vector<int32_t> table = {0};
  const std::vector<TokenPlace> places(cos.size() / static_cast<size_t>(head_dim / 2),
                                       TokenPlace{.position = 0, .block_table = table});
  StepBatch batch = BatchOf(places);
  batch.rope.cos.assign(cos.begin(), cos.end());
  batch.rope.sin.assign(sin.begin(), sin.end());
  const KvLayer none{.block_size = kKeyGroup, .head_dim = head_dim};
  ops.RopeStoreKv(x, {}, {}, batch, {.heads = heads}, none);
}

// k and v [places, num_kv_heads, head_dim]. Keys turn by angles of zero, which leaves them as they
// are.
inline void StoreKv(Ops& ops, std::span<const float> k, std::span<const float> v,
                    std::span<const TokenPlace> places, const KvLayer& cache) {
  StepBatch batch = BatchOf(places);
  const size_t angles = places.size() * static_cast<size_t>(cache.head_dim / 2);
  batch.rope.cos.assign(angles, 1.0f);
  batch.rope.sin.assign(angles, 0.0f);
  std::vector<float> keys(k.begin(), k.end());
  ops.RopeStoreKv({}, keys, v, batch, {.heads = 0}, cache);
}

}  // namespace trireme
