#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 128;  // also the positions of a step
constexpr int kWarps = kThreads / 32;

template <KvDType kType>
struct CacheElement {
  using Type = float;
  __device__ static float Float(float x) { return x; }
};
template <>
struct CacheElement<KvDType::kBF16> {
  using Type = uint16_t;
  __device__ static float Float(uint16_t x) { return __uint_as_float(uint32_t{x} << 16); }
};
template <>
struct CacheElement<KvDType::kInt8> {
  using Type = int8_t;
  __device__ static float Float(int8_t x) { return static_cast<float>(x); }
};

// One KV head's part of the page that holds a position.
template <KvDType kType>
struct PageSlot {
  using Element = typename CacheElement<kType>::Type;
  const Element* elements;
  int slot;
  int block_size;
  int head_dim;

  __device__ PageSlot(const AttentionArgs& a, const std::byte* cache, const int32_t* block_table,
                      int kv_head, int position)
      : block_size(static_cast<int>(a.cache.block_size)),
        head_dim(static_cast<int>(a.cache.head_dim)) {
    const int64_t page = block_table[position / block_size];
    constexpr int kScaleBytes = kType == KvDType::kInt8 ? 4 : 0;
    const int64_t head_bytes =
        int64_t{block_size} * (head_dim * static_cast<int>(sizeof(Element)) + kScaleBytes);
    elements = reinterpret_cast<const Element*>(cache + (page * a.cache.num_kv_heads + kv_head) *
                                                            head_bytes);
    slot = position % block_size;
  }
  __device__ float Key(int d) const {
    constexpr int kGroup = static_cast<int>(kKeyGroup);
    return CacheElement<kType>::Float(
        elements[(slot / kGroup * head_dim + d) * kGroup + slot % kGroup]);
  }
  __device__ float Value(int d) const {
    return CacheElement<kType>::Float(elements[slot * head_dim + d]);
  }
  __device__ float Scale() const {
    if constexpr (kType != KvDType::kInt8) return 1.0f;
    return reinterpret_cast<const float*>(elements + block_size * head_dim)[slot];
  }
};

template <class F>
__device__ float BlockReduce(float x, float (&shared)[kWarps], F combine) {
  for (int distance = 16; distance > 0; distance /= 2) x = combine(x, ShuffleXor(x, distance));
  SyncThreads();  // `shared` may still be in use
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  SyncThreads();
  return combine(combine(shared[0], shared[1]), combine(shared[2], shared[3]));
}

// One query over its context in steps of kThreads positions; `q` and `out` are shared memory.
template <KvDType kType>
__device__ float Attend(const AttentionArgs& a, const int32_t* block_table, int kv_head,
                        int position, const float* q, float* out) {
  __shared__ float weights[kThreads];
  __shared__ float reduced[kWarps];
  const int thread = static_cast<int>(threadIdx.x), head_dim = static_cast<int>(a.cache.head_dim);
  const int begin = FirstSeen(a, position), end = position + 1;
  float max = -INFINITY, sum = 0.0f;
  for (int at = begin / kThreads * kThreads; at < end; at += kThreads) {
    const int mine = at + thread;
    const bool seen = mine >= begin && mine < end;
    float score = -INFINITY;
    if (seen) {
      const PageSlot<kType> key(a, a.cache.k, block_table, kv_head, mine);
      float dot = 0.0f;
      for (int d = 0; d < head_dim; ++d) dot = fmaf(q[d], key.Key(d), dot);
      score = dot * (a.scale * key.Scale());
    }
    const float raised =
        fmaxf(max, BlockReduce(score, reduced, [](float x, float y) { return fmaxf(x, y); }));
    const float keep = max == -INFINITY ? 0.0f : expf(max - raised);
    max = raised;
    const float weight = seen ? expf(score - max) : 0.0f;
    sum = fmaf(sum, keep, BlockReduce(weight, reduced, [](float x, float y) { return x + y; }));
    weights[thread] = weight;
    SyncThreads();
    for (int d = thread; d < head_dim; d += kThreads) {
      float x = out[d] * keep;
      for (int j = begin > at ? begin - at : 0; j < kThreads && at + j < end; ++j) {
        const PageSlot<kType> value(a, a.cache.v, block_table, kv_head, at + j);
        x = fmaf(weights[j] * value.Scale(), value.Value(d), x);
      }
      out[d] = x;
    }
  }
  return sum;
}

// Grid: tokens, heads.
template <KvDType kType>
__global__ void __launch_bounds__(kThreads) GenericKernel(const AttentionArgs a) {
  const int token = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const int thread = static_cast<int>(threadIdx.x), head_dim = static_cast<int>(a.cache.head_dim);
  float* q = DynamicShared<float>();
  float* out = q + head_dim;
  const int64_t offset = QueryOffset(a, token, head);
  for (int d = thread; d < head_dim; d += kThreads) {
    q[d] = a.q[offset + d];
    out[d] = 0.0f;
  }
  SyncThreads();
  float inverse = 0.0f;
  const int position = a.step.positions[token];
  if (position >= 0) {
    const int64_t sequence = a.step.sequence_of_token[token];
    const int kv_head = head / (a.heads / static_cast<int>(a.cache.num_kv_heads));
    inverse = 1.0f / Attend<kType>(a, a.step.block_tables + sequence * a.step.blocks_max, kv_head,
                                   position, q, out);
  }
  for (int d = thread; d < head_dim; d += kThreads) a.out[offset + d] = out[d] * inverse;
}

template <KvDType kType>
void LaunchGeneric(const AttentionArgs& a) {
  Launch(GenericKernel<kType>,
         LaunchShape{.grid = dim3(a.step.tokens, a.heads),
                     .block = dim3(kThreads),
                     .shared_bytes = static_cast<size_t>(2 * a.cache.head_dim) * sizeof(float),
                     .stream = a.stream},
         a);
}

}  // namespace

void LaunchAttentionGeneric(const AttentionArgs& a) {
  switch (a.cache.dtype) {
    case KvDType::kF32:
      return LaunchGeneric<KvDType::kF32>(a);
    case KvDType::kBF16:
      return LaunchGeneric<KvDType::kBF16>(a);
    case KvDType::kInt8:
      return LaunchGeneric<KvDType::kInt8>(a);
  }
}

}  // namespace trireme::cuda
