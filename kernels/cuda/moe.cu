#include "kernels/cuda/moe.h"

#include "base/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/shape.h"
#include "kernels/cuda/vectors.cuh"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarpLanes;

// The order of choices: larger scores first, then smaller indices. Index n is behind all.
struct Choice {
  float score;
  int index;
};
__device__ bool Before(Choice a, Choice b) {
  return a.score > b.score || (a.score == b.score && a.index < b.index);
}

__device__ Choice Score(const float* scores, int i) {
  const float score = scores[i];
  return {score != score ? -INFINITY : score, i};  // a NaN is not itself
}

// A warp a token. Each pass over the scores finds the first one behind the last choice.
__global__ void __launch_bounds__(kThreads) TopKSoftmaxKernel(const TopKSoftmaxArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int64_t token = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpLanes;
  if (token >= a.tokens) return;
  const int n = static_cast<int>(a.n);
  const float* scores = a.scores + token * a.n;
  int32_t* ids = a.ids + token * a.k;
  float* weights = a.weights + token * a.k;
  Choice last = {INFINITY, -1};
  float first_score = 0.0f;
  float sum = 0.0f;
  for (int j = 0; j < static_cast<int>(a.k); ++j) {
    Choice best = {-INFINITY, n};
    for (int i = lane; i < n; i += kWarpLanes) {
      const Choice choice = Score(scores, i);
      if (Before(last, choice) && Before(choice, best)) best = choice;
    }
    for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) {
      const Choice other = {ShuffleXor(best.score, mask), ShuffleXor(best.index, mask)};
      if (Before(other, best)) best = other;
    }
    last = best;
    const float score = scores[best.index];
    if (j == 0) first_score = score;
    const float weight = expf(score - first_score);
    sum += weight;
    if (lane == 0) {
      ids[j] = best.index;
      weights[j] = weight;
    }
  }
  SyncWarp();
  for (int j = lane; j < static_cast<int>(a.k); j += kWarpLanes) weights[j] /= sum;
}

// Whether a choice is one of `expert`; padding tokens' choices are no one's.
__device__ bool Chosen(const RouteArgs& a, int64_t choice, int expert) {
  if (choice >= a.tokens * a.k || a.ids[choice] != expert) return false;
  return a.positions == nullptr || a.positions[choice / a.k] >= 0;
}

// first_row[e + 1] = the number of expert e's choices. A warp an expert.
__global__ void __launch_bounds__(kThreads) CountKernel(const RouteArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int64_t expert = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpLanes;
  if (expert >= a.experts) return;
  int count = 0;
  for (int64_t i = lane; i < a.tokens * a.k; i += kWarpLanes) {
    if (Chosen(a, i, static_cast<int>(expert))) ++count;
  }
  count = WarpSum(count);
  if (lane == 0) a.first_row[expert + 1] = count;
}

// Their sums. One warp, kWarpLanes experts at a time.
__global__ void FirstRowKernel(const RouteArgs a) {
  const int lane = static_cast<int>(threadIdx.x);
  int before = 0;
  for (int64_t begin = 0; begin < a.experts; begin += kWarpLanes) {
    const bool in = begin + lane < a.experts;
    int sum = in ? a.first_row[begin + lane + 1] : 0;
    for (int distance = 1; distance < kWarpLanes; distance *= 2) {
      const int lower = Shuffle(sum, lane - distance);
      if (lane >= distance) sum += lower;
    }
    if (in) a.first_row[begin + lane + 1] = before + sum;
    before += Shuffle(sum, kWarpLanes - 1);
  }
  if (lane == 0) a.first_row[0] = 0;
}

// A warp an expert walks over the choices in order; the warp behind the last expert's does what
// belongs to none.
__global__ void __launch_bounds__(kThreads) PlaceKernel(const RouteArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int64_t expert = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpLanes;
  if (expert > a.experts) return;
  const int64_t choices = a.tokens * a.k;
  if (expert == a.experts) {
    for (int64_t row = a.first_row[a.experts] + lane; row < choices; row += kWarpLanes) {
      a.token_of_row[row] = -1;
    }
    if (a.positions == nullptr) return;
    for (int64_t i = lane; i < choices; i += kWarpLanes) {
      if (a.positions[i / a.k] < 0) a.row_of[i] = -1;
    }
    return;
  }
  int next = a.first_row[expert];
  const int end = a.first_row[expert + 1];
  for (int64_t begin = 0; begin < choices && next < end; begin += kWarpLanes) {
    const int64_t i = begin + lane;
    const bool chosen = Chosen(a, i, static_cast<int>(expert));
    const uint32_t all = Ballot(chosen);
    if (chosen) {
      const int row = next + __popc(all & ((1u << lane) - 1));
      a.row_of[i] = row;
      a.token_of_row[row] = static_cast<int32_t>(i / a.k);
    }
    next += __popc(all);
  }
}

template <bool in_fours>
__global__ void __launch_bounds__(kThreads) CombineKernel(const CombineArgs a) {
  const int64_t col = GlobalThread() * (in_fours ? 4 : 1);
  if (col >= a.cols) return;
  for (int64_t token = blockIdx.y; token < a.tokens; token += gridDim.y) {
    float4 sum = make_float4(0, 0, 0, 0);
    for (int64_t j = 0; j < a.k; ++j) {
      const int64_t row = a.row_of[token * a.k + j];
      if (row < 0) break;
      const float weight = a.weights[token * a.k + j];
      const float* y = a.y + row * a.cols + col;
      const auto add = [&](float x, float value) { return __fadd_rn(x, __fmul_rn(weight, value)); };
      if constexpr (in_fours) {
        sum = MapFour(sum, LoadFour(y), add);
      } else {
        sum.x = add(sum.x, *y);
      }
    }
    float* out = a.out + token * a.cols + col;
    if constexpr (in_fours) {
      StoreFour(out, sum);
    } else {
      *out = sum.x;
    }
  }
}

}  // namespace

void TopKSoftmax(const TopKSoftmaxArgs& args) {
  CHECK(args.k >= 1 && args.k <= args.n);
  if (args.tokens == 0) return;
  Launch(TopKSoftmaxKernel,
         {.grid = Blocks(args.tokens, kWarps), .block = dim3(kThreads), .stream = args.stream},
         args);
}

void Route(const RouteArgs& args) {
  CHECK(args.experts >= 1 && args.tokens * args.k <= INT32_MAX);
  Launch(CountKernel,
         {.grid = Blocks(args.experts, kWarps), .block = dim3(kThreads), .stream = args.stream},
         args);
  Launch(FirstRowKernel, {.block = dim3(kWarpLanes), .stream = args.stream}, args);
  Launch(PlaceKernel,
         {.grid = Blocks(args.experts + 1, kWarps), .block = dim3(kThreads), .stream = args.stream},
         args);
}

void Combine(const CombineArgs& args) {
  if (args.tokens == 0 || args.cols == 0) return;
  const bool in_fours = InFours(args.cols, args.y, args.out);
  LaunchShape shape = {.grid = Blocks(args.cols, (in_fours ? 4 : 1) * kThreads),
                       .block = dim3(kThreads),
                       .stream = args.stream};
  shape.grid.y = RowBlocks(args.tokens);
  Launch(in_fours ? CombineKernel<true> : CombineKernel<false>, shape, args);
}

}  // namespace trireme::cuda
