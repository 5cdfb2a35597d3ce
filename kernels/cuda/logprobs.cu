#include <cstdint>

#include "base/check.h"
#include "kernels/cuda/block_scan.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/logit_row.cuh"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_workspace.h"
#include "kernels/token_weights.h"

namespace trireme::cuda {
namespace {

struct RowState {
  unsigned listed;
  unsigned blocks;  // done
};

struct LogprobMemory {
  RowState* states;      // [rows]
  uint64_t* slice_best;  // [rows, slices]
  Bins* bins;            // [rows]
  int* listed;           // [rows, vocab_size]
};

LogprobMemory TakeLogprobMemory(Workspace& workspace, int row_count, int vocab_size) {
  const size_t rows = static_cast<size_t>(row_count);
  return {.states = workspace.Take<RowState>(rows),
          .slice_best = workspace.Take<uint64_t>(rows * static_cast<size_t>(SlicesOf(vocab_size))),
          .bins = workspace.Take<Bins>(rows),
          .listed = workspace.Take<int>(rows * static_cast<size_t>(vocab_size))};
}

__global__ void LargestKernel(LogprobArgs args, LogprobMemory memory) {
  const int64_t row = blockIdx.y;
  if (args.requests[row].top_count < 0) return;
  const float* logits = args.logits + row * args.stride;
  uint64_t best = 0;
  ForSlice(args.vocab_size, [&](int id) {
    const uint64_t key = LargestKey(logits[id], id);
    best = key > best ? key : best;
  });
  best = BlockMax(best);
  if (threadIdx.x == 0) memory.slice_best[row * gridDim.x + blockIdx.x] = best;
  if (threadIdx.x == 0 && blockIdx.x == 0) memory.states[row] = {};
  ClearBins(&memory.bins[row]);
}

__device__ LogitScale ScaleOf(const LogprobMemory& memory) {
  const int slices = static_cast<int>(gridDim.x);
  const uint64_t best = BestOfSlices(memory.slice_best + int64_t{blockIdx.y} * slices, slices);
  return {.largest = LogitOf(best), .scale = 1.0};
}

__global__ void WeightsKernel(LogprobArgs args, LogprobMemory memory) {
  const int64_t row = blockIdx.y;
  if (args.requests[row].top_count < 0) return;
  CountIntoBins(args.logits + row * args.stride, args.vocab_size, ScaleOf(memory),
                &memory.bins[row]);
}

// Writes the `count` best of the list, best first. The list has at least as many.
__device__ void WriteTop(const float* logits, const IdList& list, int count, float largest,
                         uint64_t total, TokenLogprobs* out) {
  __shared__ uint64_t keys[kTopLogprobsMax];
  __shared__ unsigned found;
  const uint64_t last =
      SelectKey(logits, list, static_cast<uint64_t>(count) - 1, [](int) { return uint64_t{1}; });
  if (threadIdx.x == 0) found = 0;
  SyncThreads();
  for (unsigned i = threadIdx.x; i < *list.count; i += kScanThreads) {
    const uint64_t key = CandidateKey(logits[list.ids[i]], list.ids[i]);
    if (key >= last) keys[atomicAdd(&found, 1u)] = key;
  }
  SyncThreads();
  const int own = static_cast<int>(threadIdx.x);
  if (own >= count) return;
  int rank = 0;
  for (int i = 0; i < count; ++i) rank += keys[i] > keys[own] ? 1 : 0;
  out->top_ids[rank] = IdOf(keys[own]);
  out->top_logprobs[rank] = Logprob(LogitOf(keys[own]), largest, total);
}

__global__ void LogprobsKernel(LogprobArgs args, LogprobMemory memory) {
  const int64_t row = blockIdx.y;
  const LogprobRequest request = args.requests[row];
  if (request.top_count < 0) return;
  const int wanted = request.top_count < kTopLogprobsMax ? request.top_count : kTopLogprobsMax;
  const int count = wanted < args.vocab_size ? wanted : args.vocab_size;
  if (count == 0 && blockIdx.x != 0) return;

  const float* logits = args.logits + row * args.stride;
  const Bins& bins = memory.bins[row];
  const LogitScale scale = ScaleOf(memory);
  TokenLogprobs* out = args.logprobs + row;
  const uint64_t total =
      FindInOrder(
          kBins, [&](int i) { return uint64_t{bins.weights[i]}; }, [](uint64_t sum) { return sum; })
          .before;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    out->logprob = Logprob(logits[request.token_id], scale.largest, total);
    out->top_count = count;
  }
  if (count == 0) return;

  const uint64_t target = static_cast<uint64_t>(count) - 1;
  const int last_bin =
      FindInOrder(
          kBins, [&](int i) { return uint64_t{bins.counts[i]}; }, [&](uint64_t) { return target; })
          .index;
  const IdList list{.ids = memory.listed + row * args.vocab_size,
                    .count = &memory.states[row].listed};
  ForSlice(args.vocab_size, [&](int id) {
    if (scale.BinOf(logits[id]) <= last_bin) list.Append(id);
  });
  if (!LastBlock(&memory.states[row].blocks, gridDim.x)) return;
  WriteTop(logits, list, count, scale.largest, total, out);
}

}  // namespace

size_t LogprobWorkspaceBytes(int rows, int vocab_size) {
  Workspace workspace(nullptr);
  TakeLogprobMemory(workspace, rows, vocab_size);
  return workspace.bytes();
}

void TokenLogprobsOf(const LogprobArgs& args) {
  CHECK(args.vocab_size > 0 && args.vocab_size <= kWeightsMax && args.stride >= args.vocab_size);
  if (args.rows == 0) return;
  Workspace workspace(args.workspace);
  const LogprobMemory memory = TakeLogprobMemory(workspace, args.rows, args.vocab_size);
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(SlicesOf(args.vocab_size)),
                                       static_cast<unsigned>(args.rows)),
                          .block = dim3(kScanThreads),
                          .shared_bytes = 0,
                          .stream = args.stream};
  Launch(LargestKernel, shape, args, memory);
  Launch(WeightsKernel, shape, args, memory);
  Launch(LogprobsKernel, shape, args, memory);
}

}  // namespace trireme::cuda
