#include "kernels/cuda/all_reduce.h"

#include "base/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/system_flags.cuh"
#include "kernels/cuda/vectors.cuh"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 256;

// One block's side of a launch.
struct Turn {
  uint32_t epoch;  // of this launch
  int place;       // of the two

  __device__ explicit Turn(const PeerGroup& g) {
    epoch = g.buffers[g.rank]->epochs[blockIdx.x] + 1;
    place = static_cast<int>(epoch % 2);
  }
  __device__ float* Part(const PeerGroup& g, int rank) const {
    return g.buffers[rank]->parts[blockIdx.x][place];
  }
  __device__ float* Sums(const PeerGroup& g, int rank) const {
    return g.buffers[rank]->sums[blockIdx.x][place];
  }
};

// What the block wrote before is seen by all peers' blocks of this number, and what they wrote by
// this one. Thread r < size speaks for rank r.
__device__ void Meet(const PeerGroup& g, const Turn& turn, int phase) {
  SyncThreads();
  const int peer = static_cast<int>(threadIdx.x);
  if (peer < g.size) {
    __threadfence_system();
    StoreRelease(&g.buffers[peer]->arrived[phase][blockIdx.x][g.rank], turn.epoch);
  }
  SyncThreads();
  if (peer < g.size) {
    const uint32_t* const flag = &g.buffers[g.rank]->arrived[phase][blockIdx.x][peer];
    const uint64_t start = Nanoseconds();
    // Flags only grow; the difference counts, as epochs wrap around.
    while (static_cast<int32_t>(LoadAcquire(flag) - turn.epoch) < 0) {
      if (LoadAcquire(g.failure) != 0) break;
      if (Nanoseconds() - start > g.timeout_ns) {
        StoreRelease(g.failure, 1u + static_cast<uint32_t>(peer));
        break;
      }
      SpinPause();
    }
  }
  SyncThreads();
}

// After the last use of the turn: the next launch's is another.
__device__ void End(const PeerGroup& g, const Turn& turn) {
  if (threadIdx.x == 0) g.buffers[g.rank]->epochs[blockIdx.x] = turn.epoch;
}

struct Quad {
  float4 v;
};
__device__ __forceinline__ float Add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ Quad Add(const Quad& a, const Quad& b) {
  return {make_float4(__fadd_rn(a.v.x, b.v.x), __fadd_rn(a.v.y, b.v.y), __fadd_rn(a.v.z, b.v.z),
                      __fadd_rn(a.v.w, b.v.w))};
}

// The tree over the ranks' parts at one place. All loads are under way before the first addition.
template <class T>
__device__ __forceinline__ T TreeSum(const PeerGroup& g, const Turn& turn, int64_t i) {
  T terms[kPeersMax];
#pragma unroll
  for (int rank = 0; rank < kPeersMax; ++rank) {
    if (rank < g.size) terms[rank] = reinterpret_cast<const T*>(turn.Part(g, rank))[i];
  }
#pragma unroll
  for (int step = 1; step < kPeersMax; step *= 2) {
#pragma unroll
    for (int rank = 0; rank + step < kPeersMax; rank += 2 * step) {
      if (rank + step < g.size) terms[rank] = Add(terms[rank], terms[rank + step]);
    }
  }
  return terms[0];
}

// A block's elements: `each` for every block but the last.
struct Range {
  int64_t begin, count;
  __device__ Range(int64_t total, int64_t each) {
    begin = static_cast<int64_t>(blockIdx.x) * each;
    count = max(int64_t{0}, min(each, total - begin));
  }
};

template <class T>
__device__ void Copy(const T* from, T* to, int64_t count) {
  for (int64_t i = threadIdx.x; i < count; i += kThreads) to[i] = from[i];
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    OneShotKernel(const __grid_constant__ PeerGroup g, T* data, int64_t total, int64_t each) {
  const Turn turn(g);
  const Range range(total, each);
  T* const own = data + range.begin;
  Copy(own, reinterpret_cast<T*>(turn.Part(g, g.rank)), range.count);
  Meet(g, turn, 0);
  for (int64_t i = threadIdx.x; i < range.count; i += kThreads) own[i] = TreeSum<T>(g, turn, i);
  End(g, turn);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    TwoShotKernel(const __grid_constant__ PeerGroup g, T* data, int64_t total, int64_t each) {
  const Turn turn(g);
  const Range range(total, each);
  T* const own = data + range.begin;
  Copy(own, reinterpret_cast<T*>(turn.Part(g, g.rank)), range.count);
  Meet(g, turn, 0);
  // Whole quads of floats, whatever T is.
  constexpr int64_t kWidth = sizeof(T) / sizeof(float);
  const int64_t share = (range.count * kWidth + 4 * g.size - 1) / (4 * g.size) * (4 / kWidth);
  T* const sums = reinterpret_cast<T*>(turn.Sums(g, g.rank));
  for (int64_t i = threadIdx.x; i < share; i += kThreads) {
    const int64_t at = g.rank * share + i;
    if (at < range.count) sums[i] = TreeSum<T>(g, turn, at);
  }
  Meet(g, turn, 1);
  // Each rank begins with another, so that not all read the same memory at once.
  for (int step = 0; step < g.size; ++step) {
    const int rank = (g.rank + step) % g.size;
    const int64_t begin = rank * share;
    Copy(reinterpret_cast<const T*>(turn.Sums(g, rank)), own + begin,
         min(share, range.count - begin));
  }
  End(g, turn);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    GatherKernel(const __grid_constant__ PeerGroup g, const T* mine, T* all, int64_t total,
                 int64_t stride, int64_t each) {
  const Turn turn(g);
  const Range range(total, each);
  Copy(mine + range.begin, reinterpret_cast<T*>(turn.Part(g, g.rank)), range.count);
  Meet(g, turn, 0);
  for (int step = 0; step < g.size; ++step) {
    const int rank = (g.rank + step) % g.size;
    Copy(reinterpret_cast<const T*>(turn.Part(g, rank)), all + rank * stride + range.begin,
         range.count);
  }
  End(g, turn);
}

// One block a row, with the threads and the order of RmsNorm's kernel for rows of this length
// (rms_norm.cu): the same bits.
constexpr int kNormThreadsMax = 1024;

template <int kFours>
__global__ void __launch_bounds__(kNormThreadsMax)
    AllReduceRmsNormKernel(const __grid_constant__ PeerGroup g, const AllReduceRmsNormArgs a) {
  __shared__ float warp_sums[kNormThreadsMax / kWarpLanes];
  const Turn turn(g);
  const unsigned thread = threadIdx.x;
  const int64_t row = blockIdx.x;
  const auto add = [](float x, float y) { return x + y; };
  const auto quad = [&](int i) { return int64_t{i} * blockDim.x + thread; };
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int64_t col = quad(i) * 4;
    if (col >= a.cols) continue;
    StoreFour(turn.Part(g, g.rank) + col, LoadFour(a.delta + row * a.cols + col));
  }
  Meet(g, turn, 0);
  float4 x[kFours] = {};
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int64_t col = quad(i) * 4;
    if (col >= a.cols) continue;
    const int64_t at = row * a.cols + col;
    x[i] = MapFour(LoadFour(a.hidden + at), TreeSum<Quad>(g, turn, quad(i)).v, add);
    if (a.bias != nullptr) x[i] = MapFour(x[i], LoadFour(a.bias + col), add);
    StoreFour(a.hidden + at, x[i]);
    sum += x[i].x * x[i].x + x[i].y * x[i].y + (x[i].z * x[i].z + x[i].w * x[i].w);
  }
  sum = WarpSum(sum);
  if (thread % kWarpLanes == 0) warp_sums[thread / kWarpLanes] = sum;
  SyncThreads();
  float total = 0.0f;
  for (unsigned warp = 0; warp < blockDim.x / kWarpLanes; ++warp) total += warp_sums[warp];
  const float scale = 1.0f / sqrtf(total / static_cast<float>(a.cols) + a.eps);
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int64_t col = quad(i) * 4;
    if (col >= a.cols) continue;
    StoreFour(a.out + row * a.cols + col,
              MapFour(x[i], LoadFour(a.weight + col),
                      [&](float value, float weight) { return value * scale * weight; }));
  }
  End(g, turn);
}

void CheckGroup(const PeerGroup& g, int64_t count, int64_t count_max) {
  CHECK(g.size > 0 && g.size <= kPeersMax && (g.size & (g.size - 1)) == 0);
  CHECK(g.rank >= 0 && g.rank < g.size && g.failure != nullptr);
  CHECK(count >= 0 && count <= count_max);
}

// How many blocks take how many elements each, in whole quads: it follows from the count alone, so
// that it is the same on every rank, also where one's data is aligned for wider accesses.
struct Shares {
  int64_t blocks, each;
};
Shares Split(int64_t count, int64_t each_max) {
  constexpr int64_t kEachMin = 4 * kThreads;
  int64_t each = (count + 4 * kPeerBlocks - 1) / (4 * kPeerBlocks) * 4;
  each = each < kEachMin ? kEachMin : each;
  CHECK(each <= each_max);
  return {(count + each - 1) / each, each};
}

template <class Kernel, class... Args>
void LaunchBlocks(Kernel* kernel, const PeerGroup& g, int64_t blocks, Args... args) {
  Launch(kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kThreads), .stream = g.stream},
         g, args...);
}

bool Aligned(const void* data, size_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

}  // namespace

void AllReduceOneShot(const PeerGroup& group, float* data, int64_t count) {
  CheckGroup(group, count, kPeerFloatsMax);
  if (count == 0 || group.size == 1) return;
  const Shares shares = Split(count, kPeerBlockFloats);
  if (count % 4 == 0 && Aligned(data, sizeof(Quad))) {
    LaunchBlocks(OneShotKernel<Quad>, group, shares.blocks, reinterpret_cast<Quad*>(data),
                 count / 4, shares.each / 4);
  } else {
    LaunchBlocks(OneShotKernel<float>, group, shares.blocks, data, count, shares.each);
  }
}

void AllReduceTwoShot(const PeerGroup& group, float* data, int64_t count) {
  CheckGroup(group, count, kPeerFloatsMax);
  if (count == 0 || group.size == 1) return;
  const Shares shares = Split(count, kPeerBlockFloats);
  if (count % 4 == 0 && Aligned(data, sizeof(Quad))) {
    LaunchBlocks(TwoShotKernel<Quad>, group, shares.blocks, reinterpret_cast<Quad*>(data),
                 count / 4, shares.each / 4);
  } else {
    LaunchBlocks(TwoShotKernel<float>, group, shares.blocks, data, count, shares.each);
  }
}

void AllGatherPeers(const PeerGroup& group, const void* mine, void* all, int64_t bytes,
                    int64_t stride) {
  CheckGroup(group, bytes, kPeerBytesMax);
  if (bytes == 0) return;
  const Shares shares = Split(bytes, kPeerBytesMax / kPeerBlocks);
  if ((bytes | stride) % 4 == 0 && Aligned(mine, 4) && Aligned(all, 4)) {
    LaunchBlocks(GatherKernel<uint32_t>, group, shares.blocks, static_cast<const uint32_t*>(mine),
                 static_cast<uint32_t*>(all), bytes / 4, stride / 4, shares.each / 4);
  } else {
    LaunchBlocks(GatherKernel<uint8_t>, group, shares.blocks, static_cast<const uint8_t*>(mine),
                 static_cast<uint8_t*>(all), bytes, stride, shares.each);
  }
}

bool CanFuseRmsNorm(int64_t rows, int64_t cols) {
  return rows <= kPeerBlocks && cols > 256 && cols <= kPeerBlockFloats && cols % 4 == 0;
}

void AllReduceRmsNorm(const PeerGroup& group, const AllReduceRmsNormArgs& args) {
  CheckGroup(group, args.rows * args.cols, kPeerFloatsMax);
  CHECK(CanFuseRmsNorm(args.rows, args.cols));
  for (const float* p : {args.delta, static_cast<const float*>(args.hidden), args.bias, args.weight,
                         static_cast<const float*>(args.out)}) {
    CHECK(Aligned(p, sizeof(float4)));
  }
  if (args.rows == 0) return;
  const auto launch = [&](auto kernel, int64_t fours) {
    const int64_t threads = (args.cols / 4 + fours - 1) / fours;
    Launch(kernel,
           {.grid = dim3(static_cast<unsigned>(args.rows)),
            .block = dim3(static_cast<unsigned>((threads + 31) / 32 * 32)),
            .stream = group.stream},
           group, args);
  };
  static_assert(kPeerBlockFloats == 2 * 4 * kNormThreadsMax);
  if (args.cols <= 4 * kNormThreadsMax) {
    launch(AllReduceRmsNormKernel<1>, 1);
  } else {
    launch(AllReduceRmsNormKernel<2>, 2);
  }
}

}  // namespace trireme::cuda
