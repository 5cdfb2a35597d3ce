#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/kv_layer.h"

namespace trireme::cuda {

// Paged attention of a step's tokens, prompts and decoded tokens mixed: what Ops::Attention
// computes, over the cache of kernels/kv_layer.h.
//
// Flash attention 2 (Dao 2023) over pages (Kwon et al. 2023) with the query heads of a KV head
// packed into the rows of one product, split over the context (flash decoding) where a sequence
// brings few tokens. The context is cut at multiples of kAttentionSplit positions, a part is walked
// in tiles of 64 from its start, and the parts are merged in order, whichever kernel does it: a
// token's bits depend neither on the batch, nor on how its prompt was cut into chunks, nor on
// whether it came as a prompt's or as a decoded token.
//
// Ours rather than FlashInfer's or FlashAttention 3's kernels: those fix the layout of a page
// (tokens by dimensions; ours is the CPU backend's, keys dimension by dimension, which ldmatrix
// transposes on the way), know no int8 cache with a scale for each token, choose their splits by
// the batch, and would be a dependency. FlashAttention 3's wgmma is faster for long prompts on
// sm_90; attention is a small part of a prompt's work up to some thousand tokens.

// Positions in a part of the context. A constant: were it to depend on the batch, so would bits.
inline constexpr int kAttentionSplit = 512;
// The most tokens of one sequence that may be split over the context.
inline constexpr int kSplitQueryMax = 8;

// The tokens of a step. The arrays are in device memory; the rest is the bucket that a graph is
// captured for, and the grid depends on it alone.
struct AttentionStep {
  // The tokens of a sequence are neighbours, their positions consecutive. Padding tokens, with
  // position -1, are sequences of their own or lie behind the last one: they get zeros, and their
  // sequence_of_token is read only before the last one's end.
  const int32_t* positions = nullptr;          // [tokens]
  const int32_t* sequence_of_token = nullptr;  // [tokens]
  const int32_t* query_start = nullptr;        // [sequences + 1]: a sequence's first token
  const int32_t* block_tables = nullptr;       // [sequences, blocks_max]
  int tokens = 0;
  int sequences = 0;
  int blocks_max = 0;
  int context_max = 0;  // no position is as large
  int query_max = 1;    // no sequence has more tokens in this step
  // Sequences of at most so many tokens, 1 to kSplitQueryMax, are split over the context. Moves
  // time and workspace, never bits.
  int split_query_max = 1;
};

struct AttentionArgs {
  const float* q = nullptr;  // [tokens, heads, head_dim]; 16-byte aligned
  float* out = nullptr;      // as q
  KvLayer cache;             // in device memory, 16-byte aligned
  int heads = 0;             // a multiple of the cache's KV heads
  float scale = 1.0f;        // of q . k; positive
  int window = 0;            // positions a token sees, its own included; 0: all up to it
  AttentionStep step;
  std::byte* workspace = nullptr;  // AttentionWorkspaceBytes, 16-byte aligned; needs no clearing
  cudaStream_t stream = nullptr;
};

// Whether the tensor cores do it: bf16 and int8 caches with head_dim 64, 128 or 256, and at most 64
// query heads for each KV head. Queries and softmax weights are then rounded to bfloat16, sums are
// float32. Everything else (f32 caches, other dimensions) goes to a plain float32 kernel, which is
// as exact as the CPU's, and slow.
bool AttentionIsFast(const KvLayer& cache, int64_t heads);

// Unimplemented, with the reason, for a shape that no kernel takes; call it once when a model is
// loaded, since Attention CHECKs.
absl::Status CheckAttention(const KvLayer& cache, int64_t heads);

// What Attention needs of a workspace for this bucket; only the step's sizes are read.
int64_t AttentionWorkspaceBytes(const KvLayer& cache, int64_t heads, const AttentionStep& step);

// Launches at most three kernels; allocates nothing and does not wait. `out` must not be `q`.
void Attention(const AttentionArgs& args);

}  // namespace trireme::cuda
