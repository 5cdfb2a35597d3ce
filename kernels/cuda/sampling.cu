#include "kernels/cuda/sampling.h"

#include <cstdint>

#include "base/check.h"
#include "kernels/cuda/block_scan.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/logit_row.cuh"
#include "kernels/cuda/sampling_workspace.h"
#include "kernels/token_weights.h"

namespace trireme::cuda {
namespace {

// What the kernels of a step tell each other about a row.
struct RowState {
  uint64_t cut;  // tokens with lesser keys are out; 0 at first
  unsigned top_k_listed;
  unsigned top_k_blocks;  // done
  unsigned top_p_listed;
  unsigned top_p_blocks;
  unsigned chosen_blocks;
};

struct SampleMemory {
  RowState* states;          // [rows]
  uint64_t* slice_best;      // [rows, slices]
  uint64_t* slice_weights;   // [rows, slices]
  Bins* bins;                // [rows]
  int* listed;               // [rows, vocab_size]
  float* changed;            // [rows, vocab_size], the logits of rows with biases or penalties
  LogprobRequest* requests;  // [rows]
  std::byte* logprobs;       // LogprobWorkspaceBytes
};

SampleMemory TakeSampleMemory(Workspace& workspace, int row_count, int vocab_size) {
  const size_t rows = static_cast<size_t>(row_count);
  const size_t slices = static_cast<size_t>(SlicesOf(vocab_size));
  const size_t vocab = static_cast<size_t>(vocab_size);
  return {.states = workspace.Take<RowState>(rows),
          .slice_best = workspace.Take<uint64_t>(rows * slices),
          .slice_weights = workspace.Take<uint64_t>(rows * slices),
          .bins = workspace.Take<Bins>(rows),
          .listed = workspace.Take<int>(rows * vocab),
          .changed = workspace.Take<float>(rows * vocab),
          .requests = workspace.Take<LogprobRequest>(rows),
          .logprobs = workspace.Take<std::byte>(LogprobWorkspaceBytes(row_count, vocab_size))};
}

// A row as one block sees it.
struct Row {
  const SamplingParams& params;
  RowState& state;
  Bins& bins;
  const float* values;  // the logits, changed or not
  int* listed;
  uint64_t* slice_best;
  uint64_t* slice_weights;
};

__device__ Row RowOf(const SampleArgs& args, const SampleMemory& memory) {
  const int64_t row = blockIdx.y;
  const int64_t slices = gridDim.x;
  const SamplingParams& params = args.params[row];
  return {.params = params,
          .state = memory.states[row],
          .bins = memory.bins[row],
          .values = ChangesLogits(params) ? memory.changed + row * args.vocab_size
                                          : args.logits + row * args.stride,
          .listed = memory.listed + row * args.vocab_size,
          .slice_best = memory.slice_best + row * slices,
          .slice_weights = memory.slice_weights + row * slices};
}

__device__ LogitScale ScaleOf(const Row& row) {
  const uint64_t best = BestOfSlices(row.slice_best, static_cast<int>(gridDim.x));
  return {.largest = LogitOf(best), .scale = 1 / double{row.params.temperature}};
}

__device__ bool IsInSlice(int id) { return id / kSliceTokens == static_cast<int>(blockIdx.x); }

// Logit bias; then repetition (Keskar et al. 2019) over prompt and output; then presence and
// frequency (OpenAI) over output.
__device__ void ChangeSlice(const SampleArgs& args, const Row& row, float* changed) {
  const SamplingParams& params = row.params;
  const float* logits = args.logits + blockIdx.y * args.stride;
  ForSlice(args.vocab_size, [&](int id) { changed[id] = logits[id]; });
  SyncThreads();
  const TokenBias* biases = args.biases + params.bias_begin;
  for (int i = static_cast<int>(threadIdx.x); i < params.bias_count; i += kScanThreads) {
    const int id = biases[i].id;
    if (!IsInSlice(id) || (i > 0 && biases[i - 1].id == id)) continue;
    for (int j = i; j < params.bias_count && biases[j].id == id; ++j) changed[id] += biases[j].bias;
  }
  SyncThreads();
  if (!IsPenalised(params)) return;
  const SeenToken* seen = args.seen.tokens + int64_t{params.sequence} * args.seen.capacity;
  const int count = args.seen.counts[params.sequence];
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kScanThreads) {
    const auto [id, in_output] = seen[i];
    if (!IsInSlice(id)) continue;
    float logit = changed[id];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (in_output > 0) {
      logit -= params.presence_penalty +
               Product(params.frequency_penalty, static_cast<float>(in_output));
    }
    changed[id] = logit;
  }
  SyncThreads();
}

// Changes logits, finds each slice's largest and clears what the kernels after it count in.
__global__ void PrepareKernel(SampleArgs args, SampleMemory memory) {
  const Row row = RowOf(args, memory);
  if (row.params.sequence < 0) return;
  if (ChangesLogits(row.params)) {
    ChangeSlice(args, row, memory.changed + int64_t{blockIdx.y} * args.vocab_size);
  }
  uint64_t best = 0;
  ForSlice(args.vocab_size, [&](int id) {
    const uint64_t key = LargestKey(row.values[id], id);
    best = key > best ? key : best;
  });
  best = BlockMax(best);
  if (threadIdx.x == 0) row.slice_best[blockIdx.x] = best;
  if (threadIdx.x == 0 && blockIdx.x == 0) row.state = {};
  if (Draws(row.params)) ClearBins(&row.bins);
}

__global__ void BinsKernel(SampleArgs args, SampleMemory memory) {
  const Row row = RowOf(args, memory);
  if (row.params.sequence < 0) return;
  if (!CutsTopK(row.params, args.vocab_size) && !CutsTopP(row.params)) return;
  CountIntoBins(row.values, args.vocab_size, ScaleOf(row), &row.bins);
}

// Lists the tokens of one bin that are not out.
__device__ void ListBin(const SampleArgs& args, const Row& row, const LogitScale& scale, int bin,
                        const IdList& list) {
  const uint64_t cut = row.state.cut;
  ForSlice(args.vocab_size, [&](int id) {
    const float logit = row.values[id];
    if (scale.BinOf(logit) == bin && CandidateKey(logit, id) >= cut) list.Append(id);
  });
}

// Finds the key of the top_k-th token, and takes what is behind it out of the bins.
__global__ void TopKKernel(SampleArgs args, SampleMemory memory) {
  const Row row = RowOf(args, memory);
  if (row.params.sequence < 0 || !CutsTopK(row.params, args.vocab_size)) return;
  const LogitScale scale = ScaleOf(row);
  const uint64_t target = static_cast<uint64_t>(row.params.top_k) - 1;
  const Found found = FindInOrder(
      kBins, [&](int i) { return uint64_t{row.bins.counts[i]}; }, [&](uint64_t) { return target; });
  const int bin = found.index < kBins ? found.index : kBinsLast;
  const IdList list{.ids = row.listed, .count = &row.state.top_k_listed};
  ListBin(args, row, scale, bin, list);
  if (!LastBlock(&row.state.top_k_blocks, gridDim.x)) return;

  const uint64_t cut =
      SelectKey(row.values, list, target - found.before, [](int) { return uint64_t{1}; });
  uint64_t kept = 0;
  for (unsigned i = threadIdx.x; i < *list.count; i += kScanThreads) {
    const float logit = row.values[list.ids[i]];
    if (CandidateKey(logit, list.ids[i]) >= cut) kept += scale.WeightOf(logit);
  }
  kept = BlockScan(kept).total;
  for (int i = bin + static_cast<int>(threadIdx.x); i < kBins; i += kScanThreads) {
    row.bins.weights[i] = i == bin ? kept : 0;
  }
  if (threadIdx.x == 0) row.state.cut = cut;
}

// Finds the key of the last token of the smallest prefix that weighs top_p of what top_k left.
__global__ void TopPKernel(SampleArgs args, SampleMemory memory) {
  const Row row = RowOf(args, memory);
  if (row.params.sequence < 0 || !CutsTopP(row.params)) return;
  const LogitScale scale = ScaleOf(row);
  uint64_t target = 0;
  const Found found = FindInOrder(
      kBins, [&](int i) { return uint64_t{row.bins.weights[i]}; },
      [&](uint64_t total) { return target = ShareOfWeight(row.params.top_p, total) - 1; });
  if (found.index == kBins) return;  // nothing weighs anything
  const IdList list{.ids = row.listed, .count = &row.state.top_p_listed};
  ListBin(args, row, scale, found.index, list);
  if (!LastBlock(&row.state.top_p_blocks, gridDim.x)) return;

  const uint64_t cut = SelectKey(row.values, list, target - found.before,
                                 [&](int id) { return scale.WeightOf(row.values[id]); });
  if (threadIdx.x == 0) row.state.cut = cut;
}

// What is left of a row: a token's weight, or 0.
struct Filtered {
  const float* values;
  LogitScale scale;
  uint64_t cut;
  uint64_t least_weight;

  __device__ uint64_t operator()(int id) const {
    const uint64_t weight = scale.WeightOf(values[id]);
    return CandidateKey(values[id], id) >= cut && weight >= least_weight ? weight : 0;
  }
};

// The token at the random number, in the order of ids. -1 to blocks that have nothing to add.
__device__ int DrawFromRow(const SampleArgs& args, const Row& row) {
  const int slices = static_cast<int>(gridDim.x);
  const uint64_t best = BestOfSlices(row.slice_best, slices);
  const Filtered weight_of{
      .values = row.values,
      .scale = {.largest = LogitOf(best), .scale = 1 / double{row.params.temperature}},
      .cut = row.state.cut,
      .least_weight = row.params.min_p > 0 ? LeastWeight(row.params.min_p) : 0};
  uint64_t weight = 0;
  ForSlice(args.vocab_size, [&](int id) { weight += weight_of(id); });
  weight = BlockScan(weight).total;
  if (threadIdx.x == 0) row.slice_weights[blockIdx.x] = weight;
  if (!LastBlock(&row.state.chosen_blocks, gridDim.x)) return -1;

  const double uniform = UniformAt(row.params.seed, static_cast<uint64_t>(row.params.position));
  uint64_t unit = 0;
  const Found slice = FindInOrder(
      slices, [&](int i) { return row.slice_weights[i]; },
      [&](uint64_t total) { return unit = total == 0 ? 0 : UnitAt(uniform, total); });
  if (slice.index == slices) return IdOf(best);  // nothing weighs anything
  const int begin = slice.index * kSliceTokens;
  const int count = args.vocab_size - begin < kSliceTokens ? args.vocab_size - begin : kSliceTokens;
  const Found token = FindInOrder(
      count, [&](int i) { return weight_of(begin + i); },
      [&](uint64_t) { return unit - slice.before; });
  return begin + token.index;
}

__device__ void AddToSeen(const SeenTokens& lists, int sequence, int id) {
  __shared__ bool is_new;
  SeenToken* seen = lists.tokens + int64_t{sequence} * lists.capacity;
  const int count = lists.counts[sequence];
  if (threadIdx.x == 0) is_new = true;
  SyncThreads();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kScanThreads) {
    if (seen[i].id != id) continue;
    ++seen[i].in_output;
    is_new = false;
  }
  SyncThreads();
  if (threadIdx.x != 0 || !is_new || count == lists.capacity) return;
  seen[count] = {.id = id, .in_output = 1};
  lists.counts[sequence] = count + 1;
}

__global__ void ChooseKernel(SampleArgs args, SampleMemory memory) {
  const Row row = RowOf(args, memory);
  const int sequence = row.params.sequence;
  if (sequence < 0) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    args.token_ids[blockIdx.y] = -1;
    memory.requests[blockIdx.y] = {};
    return;
  }
  int chosen = -1;
  if (Draws(row.params)) {
    chosen = DrawFromRow(args, row);
  } else if (blockIdx.x == 0) {
    chosen = IdOf(BestOfSlices(row.slice_best, static_cast<int>(gridDim.x)));
  }
  if (chosen < 0) return;
  if (threadIdx.x == 0) {
    args.token_ids[blockIdx.y] = chosen;
    memory.requests[blockIdx.y] = {.token_id = chosen, .top_count = row.params.logprobs};
  }
  if (IsPenalised(row.params)) AddToSeen(args.seen, sequence, chosen);
}

}  // namespace

size_t SampleWorkspaceBytes(int rows, int vocab_size) {
  Workspace workspace(nullptr);
  TakeSampleMemory(workspace, rows, vocab_size);
  return workspace.bytes();
}

void Sample(const SampleArgs& args) {
  CHECK(args.vocab_size > 0 && args.vocab_size <= kWeightsMax && args.stride >= args.vocab_size);
  if (args.rows == 0) return;
  Workspace workspace(args.workspace);
  const SampleMemory memory = TakeSampleMemory(workspace, args.rows, args.vocab_size);
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(SlicesOf(args.vocab_size)),
                                       static_cast<unsigned>(args.rows)),
                          .block = dim3(kScanThreads),
                          .shared_bytes = 0,
                          .stream = args.stream};
  Launch(PrepareKernel, shape, args, memory);
  if (args.needs.top_k || args.needs.top_p) Launch(BinsKernel, shape, args, memory);
  if (args.needs.top_k) Launch(TopKKernel, shape, args, memory);
  if (args.needs.top_p) Launch(TopPKernel, shape, args, memory);
  Launch(ChooseKernel, shape, args, memory);
  if (!args.needs.logprobs) return;
  TokenLogprobsOf({.logits = args.logits,
                   .stride = args.stride,
                   .rows = args.rows,
                   .vocab_size = args.vocab_size,
                   .requests = memory.requests,
                   .logprobs = args.logprobs,
                   .workspace = memory.logprobs,
                   .stream = args.stream});
}

}  // namespace trireme::cuda
