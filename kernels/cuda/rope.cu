#include "kernels/cuda/rope.h"

#include "base/check.h"
#include "kernels/cuda/kv_store.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shape.h"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {
namespace {

constexpr int kWarps = 8;

struct Pair {
  float low, high;  // dimensions i and i + head_dim / 2
};

// Products and sums are rounded one by one, as on the CPU.
__device__ Pair Rotate(Pair x, float cos, float sin) {
  return {__fsub_rn(__fmul_rn(x.low, cos), __fmul_rn(x.high, sin)),
          __fadd_rn(__fmul_rn(x.high, cos), __fmul_rn(x.low, sin))};
}

// A warp for each head of each token: query heads, then the keys' and the values' heads. A key's
// dimensions are kKeyGroup elements apart in the cache: a token's writes are scattered, but those
// of kKeyGroup tokens fill whole sectors, which the second-level cache puts together.
__global__ void __launch_bounds__(32 * kWarps) RopeKernel(const RopeArgs a, int64_t head_bytes) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int64_t item = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpLanes;
  const int64_t kv_heads = a.k == nullptr ? 0 : a.cache.num_kv_heads;
  const int64_t heads = a.q == nullptr ? 0 : a.heads;
  const int64_t token = item / (heads + 2 * kv_heads);
  if (token >= a.tokens) return;
  const int64_t position = a.positions == nullptr ? 0 : a.positions[token];
  if (position < 0) return;
  const int64_t n = a.head_dim;
  const int64_t half = n / 2;
  int64_t head = item % (heads + 2 * kv_heads);

  const int64_t angle = (a.angle_rows == nullptr ? token : a.angle_rows[token]) * half;
  const auto rotated = [&](const float* x, int64_t i) {
    const Pair pair = {x[i], x[half + i]};
    return a.cos == nullptr ? pair : Rotate(pair, a.cos[angle + i], a.sin[angle + i]);
  };
  if (head < heads) {
    float* x = a.q + (token * heads + head) * n;
    for (int64_t i = lane; i < half; i += kWarpLanes) {
      const Pair pair = rotated(x, i);
      x[i] = pair.low;
      x[half + i] = pair.high;
    }
    return;
  }
  head -= heads;
  const bool is_key = head < kv_heads;
  if (!is_key) head -= kv_heads;
  const int32_t* table = a.block_tables + a.sequence_of_token[token] * a.blocks_max;
  const int64_t page = table[position / a.cache.block_size];
  const int64_t slot = position % a.cache.block_size;
  const float* x = (is_key ? a.k : a.v) + (token * kv_heads + head) * n;
  std::byte* to = (is_key ? a.cache.k : a.cache.v) + (page * kv_heads + head) * head_bytes;
  if (is_key) {
    StoreKvRow(a.cache, to, slot, slot / kKeyGroup * kKeyGroup * n + slot % kKeyGroup, kKeyGroup,
               [&](int64_t i, auto&& take) {
                 const Pair pair = rotated(x, i);
                 take(i, pair.low);
                 take(half + i, pair.high);
               });
  } else {
    StoreKvRow(a.cache, to, slot, slot * n, 1, [&](int64_t i, auto&& take) {
      take(i, x[i]);
      take(half + i, x[half + i]);
    });
  }
}

}  // namespace

void RopeAndStoreKv(const RopeArgs& args) {
  CHECK(args.head_dim % 2 == 0 && (args.cos == nullptr) == (args.sin == nullptr));
  int64_t heads = args.q == nullptr ? 0 : args.heads;
  if (args.k != nullptr) {
    CHECK(args.v != nullptr && args.positions != nullptr && args.sequence_of_token != nullptr &&
          args.block_tables != nullptr);
    CHECK(args.cache.head_dim == args.head_dim && args.cache.block_size % kKeyGroup == 0);
    heads += 2 * args.cache.num_kv_heads;
  }
  if (args.tokens * heads == 0) return;
  Launch(RopeKernel,
         {.grid = Blocks(args.tokens * heads, kWarps),
          .block = dim3(32 * kWarps),
          .stream = args.stream},
         args, args.cache.head_bytes());
}

}  // namespace trireme::cuda
