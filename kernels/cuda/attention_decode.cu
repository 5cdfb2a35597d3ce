#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/warp.cuh"

namespace trireme::cuda {
namespace {

// Rows of a block: one operand A. The memory's bandwidth is the limit, so rows without a head cost
// nothing, and a group of one head needs no kernel of its own.
constexpr int kRows = 16;

// Tiles on their way or in use: two blocks of 100 KB fit a multiprocessor of sm_90.
template <int kHeadDim>
constexpr int kStages = kHeadDim > 128 ? 2 : 3;

template <class Tile, int kHeadDim>
struct DecodeShared {
  struct Stage {
    alignas(16) std::byte keys[Tile::kKeyBytes];
    alignas(16) std::byte values[Tile::kValueBytes];
    TileScales scales;
  };
  Stage stages[kStages<kHeadDim>];
  // What the warps tell each other about a tile.
  uint4 weights[kAttentionWarps][32];  // operand A of the second product
  float2 sums[kAttentionWarps][32];
  float max[kAttentionWarps][kRows];
};

// Sixteen rows over one part of the context. The warps share the positions of the first product and
// the dimensions of the second, so that keys and values are read from shared memory once.
template <class Tile, int kHeadDim>
class DecodeRows {
 public:
  using Shared = DecodeShared<Tile, kHeadDim>;

  __device__ DecodeRows(const AttentionArgs& a, Shared& shared, int kv_head, int sequence)
      : a_(a),
        shared_(shared),
        sequence_(sequence),
        first_token_(a.step.query_start[sequence]),
        group_(a.heads / static_cast<int>(a.cache.num_kv_heads)),
        first_head_(kv_head * group_),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        quad_(lane_ % 4),
        scale_log2_(a.scale * kLog2E) {}

  // Rows [first_row, first_row + 16) of rows_all: row t * group + h is head h of token t.
  __device__ void SetRows(int first_row, int rows_all, int first_position) {
    for (int i = 0; i < 2; ++i) {
      const int row = first_row + lane_ / 4 + 8 * i;
      live_[i] = row < rows_all;
      token_[i] = live_[i] ? row / group_ : 0;
      head_[i] = first_head_ + row % group_;
      const int position = first_position + token_[i];
      seen_[i] = {FirstSeen(a_, position), position + 1};
      if (!live_[i]) seen_[i] = {0, 0};
    }
    LoadQueries();
  }

  __device__ void Begin() {
    for (RowSoftmax& softmax : softmax_) softmax = RowSoftmax();
    for (auto& pair : out_) {
      for (auto& product : pair) {
        for (float& x : product) x = 0.0f;
      }
    }
  }

  // All threads of the block.
  __device__ void Step(const typename Shared::Stage& stage, int tile) {
    GroupScores s = {};
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      const OperandPair keys = Tile::Keys(stage.keys, warp_, k, lane_);
      for (int n = 0; n < 2; ++n) MmaBf16(s[n], q_[k], keys.b[n]);
    }
    ScaleScores<Tile>(s, stage.scales.keys + 16 * warp_, quad_);
    MaskScores<Tile>(s, seen_, tile + 16 * warp_, quad_);
    for (int i = 0; i < 2; ++i) {
      const float max = QuadMax(GroupMax(s, i));
      if (quad_ == 0) shared_.max[warp_][lane_ / 4 + 8 * i] = max;
    }
    SyncThreads();
    float keep[2], sums[2];
    for (int i = 0; i < 2; ++i) {
      float max = -INFINITY;
      for (int w = 0; w < kAttentionWarps; ++w) max = fmaxf(max, shared_.max[w][lane_ / 4 + 8 * i]);
      keep[i] = softmax_[i].Raise(max, scale_log2_);
      sums[i] = GroupWeights(s, i, softmax_[i].Offset(scale_log2_), scale_log2_);
    }
    uint32_t weights[4];
    PackWeights<Tile>(s, stage.scales.values + 16 * warp_, quad_, weights);
    shared_.sums[warp_][lane_] = float2{sums[0], sums[1]};
    shared_.weights[warp_][lane_] = uint4{weights[0], weights[1], weights[2], weights[3]};
    SyncThreads();
    AddValues(stage.values, keep);
  }

  // The rows' results of a part: to `out` where a row sees no other part.
  __device__ void End(int part) {
    const AttentionParts parts(a_);
    for (int i = 0; i < 2; ++i) {
      const float sum = QuadSum(softmax_[i].sum);
      const int part_begin = part * kAttentionSplit, part_end = part_begin + kAttentionSplit;
      if (!live_[i] || seen_[i].end <= part_begin || seen_[i].begin >= part_end) continue;
      const bool whole = seen_[i].begin >= part_begin && seen_[i].end <= part_end;
      const int64_t row = AttentionParts::Row(a_, sequence_, token_[i], head_[i]);
      float* to = whole ? a_.out + QueryOffset(a_, first_token_ + token_[i], head_[i])
                        : parts.Out(row, part);
      const float factor = whole ? 1.0f / sum : 1.0f;
      for (int p = 0; p < kPairs; ++p) {
        float x[2][2];
        for (int j = 0; j < 4; ++j) x[j / 2][j % 2] = out_[p][j / 2][2 * i + j % 2] * factor;
        Tile::StoreColumns(to + 16 * (warp_ * kPairs + p), quad_, x);
      }
      if (!whole && warp_ == 0 && quad_ == 0) {
        parts.Softmax(row, part)[0] = softmax_[i].max;
        parts.Softmax(row, part)[1] = sum;
      }
    }
  }

 private:
  static constexpr int kPairs = kHeadDim / 16 / kAttentionWarps;  // of products, for each warp

  // Straight to operand A, all dimensions in every warp.
  __device__ void LoadQueries() {
    for (int i = 0; i < 2; ++i) {
      const float* q = a_.q + QueryOffset(a_, first_token_ + token_[i], head_[i]);
#pragma unroll
      for (int k = 0; k < kHeadDim / 8; ++k) {
        const float2 x =
            live_[i] ? *reinterpret_cast<const float2*>(q + 8 * k + 2 * quad_) : float2{0.0f, 0.0f};
        q_[k / 2][i + 2 * (k % 2)] = PairOf(x.x, x.y);
      }
    }
  }

  __device__ void AddValues(const std::byte* values, const float (&keep)[2]) {
    for (int i = 0; i < 2; ++i) {
      float sums[kTileGroups];
      for (int g = 0; g < kTileGroups; ++g) {
        const float2 both = shared_.sums[g][lane_];
        sums[g] = i == 0 ? both.x : both.y;
      }
      softmax_[i].Add(keep[i], sums);
    }
    for (auto& pair : out_) {
      for (auto& product : pair) {
        for (int j = 0; j < 4; ++j) product[j] *= keep[j / 2];
      }
    }
#pragma unroll
    for (int g = 0; g < kTileGroups; ++g) {
      const uint4 word = shared_.weights[g][lane_];
      const uint32_t weights[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
      for (int p = 0; p < kPairs; ++p) {
        const OperandPair pair = Tile::Values(values, g, warp_ * kPairs + p, lane_);
        for (int n = 0; n < 2; ++n) MmaBf16(out_[p][n], weights, pair.b[n]);
      }
    }
  }

  const AttentionArgs& a_;
  Shared& shared_;
  const int sequence_;
  const int first_token_;
  const int group_;
  const int first_head_;
  const int warp_;
  const int lane_;
  const int quad_;
  const float scale_log2_;
  bool live_[2];
  int token_[2];  // counted in the sequence
  int head_[2];
  SeenRange seen_[2];
  uint32_t q_[kHeadDim / 16][4];
  float out_[kPairs][2][4];
  RowSoftmax softmax_[2];
};

// Grid: parts, row tiles x KV heads, sequences. A block takes every gridDim.x-th part.
template <KvDType kType, int kHeadDim>
__global__ void __launch_bounds__(kAttentionThreads, 2) DecodeKernel(const AttentionArgs a) {
  using Tile = KvTile<kType, kHeadDim>;
  using Shared = DecodeShared<Tile, kHeadDim>;
  constexpr int kInFlight = kStages<kHeadDim> - 1;
  Shared& shared = *DynamicShared<Shared>();

  const int sequence = static_cast<int>(blockIdx.z);
  const int kv_heads = static_cast<int>(a.cache.num_kv_heads), group = a.heads / kv_heads;
  const int kv_head = static_cast<int>(blockIdx.y) % kv_heads;
  const int first_row = static_cast<int>(blockIdx.y) / kv_heads * kRows;
  const int first_token = a.step.query_start[sequence];
  const int tokens = a.step.query_start[sequence + 1] - first_token;
  if (tokens > a.step.split_query_max || first_row >= tokens * group) return;
  const int position = a.step.positions[first_token];
  if (position < 0) return;
  const int rows_end = min(first_row + kRows, tokens * group);
  const int begin = FirstSeen(a, position + first_row / group);
  const int end = position + (rows_end - 1) / group + 1;
  int part = begin / kAttentionSplit + static_cast<int>(blockIdx.x);
  if (part * kAttentionSplit >= end) return;

  DecodeRows<Tile, kHeadDim> rows(a, shared, kv_head, sequence);
  TileLoader<Tile> loader(a.cache, a.step.block_tables + int64_t{sequence} * a.step.blocks_max,
                          kv_head, begin, end, static_cast<int>(threadIdx.x) / 32,
                          static_cast<int>(threadIdx.x) % 32);
  bool have_rows = false;
  for (; part * kAttentionSplit < end; part += static_cast<int>(gridDim.x)) {
    const int first = max(part * kAttentionSplit, begin) / kTile * kTile;
    const int tiles = (min((part + 1) * kAttentionSplit, end) - first + kTile - 1) / kTile;
    const auto copy = [&](int i) {
      if (i < tiles) {
        auto& stage = shared.stages[i % kStages<kHeadDim>];
        loader.CopyKeys(stage.keys, first + i * kTile);
        loader.CopyScales(stage.scales, first + i * kTile);
        loader.CopyValues(stage.values, first + i * kTile);
        loader.Find(first + (i + 1) * kTile);
      }
      CommitCopies();
    };
    loader.Find(first);
    for (int i = 0; i < kInFlight; ++i) copy(i);
    if (!have_rows) rows.SetRows(first_row, tokens * group, position);
    have_rows = true;
    rows.Begin();
    for (int i = 0; i < tiles; ++i) {
      WaitCopies<kInFlight - 1>();
      SyncThreads();
      copy(i + kInFlight);
      rows.Step(shared.stages[i % kStages<kHeadDim>], first + i * kTile);
    }
    rows.End(part);
    SyncThreads();
  }
}

// A warp for each head of each token, as many at a time as there are warps.
template <int kHeadDim>
__global__ void __launch_bounds__(kAttentionThreads) MergeKernel(const AttentionArgs a) {
  constexpr int kPairs = kHeadDim / 64;  // of floats for each lane
  const int warps = static_cast<int>(gridDim.x) * kAttentionWarps;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const AttentionParts parts(a);
  for (int i = static_cast<int>(blockIdx.x) * kAttentionWarps + static_cast<int>(threadIdx.x) / 32;
       i < a.step.tokens * a.heads; i += warps) {
    const int token = i / a.heads, head = i % a.heads;
    const int position = a.step.positions[token];
    auto* to = reinterpret_cast<float2*>(a.out + QueryOffset(a, token, head)) + lane;
    float2 out[kPairs] = {};
    if (position >= 0) {
      const int sequence = a.step.sequence_of_token[token];
      const int first_token = a.step.query_start[sequence];
      if (a.step.query_start[sequence + 1] - first_token > a.step.split_query_max) continue;
      const int first = FirstSeen(a, position) / kAttentionSplit;
      const int last = position / kAttentionSplit;
      if (first == last) continue;
      const int64_t row = AttentionParts::Row(a, sequence, token - first_token, head);
      MergedSoftmax merged;
#pragma unroll 4
      for (int part = first; part <= last; ++part) {
        const float2 softmax = *reinterpret_cast<const float2*>(parts.Softmax(row, part));
        const auto* from = reinterpret_cast<const float2*>(parts.Out(row, part)) + lane;
        const auto worth = merged.Merge(softmax.x, softmax.y, a.scale * kLog2E);
        for (int p = 0; p < kPairs; ++p) {
          out[p].x = MergeOutput(worth, out[p].x, from[32 * p].x);
          out[p].y = MergeOutput(worth, out[p].y, from[32 * p].y);
        }
      }
      const float inverse = 1.0f / merged.sum;
      for (float2& x : out) x = {x.x * inverse, x.y * inverse};
    }
    for (int p = 0; p < kPairs; ++p) to[32 * p] = out[p];
  }
}

template <KvDType kType, int kHeadDim>
void LaunchDecode(const AttentionArgs& a) {
  const int kv_heads = static_cast<int>(a.cache.num_kv_heads);
  const int query_max = std::min(a.step.split_query_max, a.step.query_max);
  const int row_tiles = (query_max * (a.heads / kv_heads) + kRows - 1) / kRows;
  // Enough blocks to fill a large device some times over; more would be found idle one by one.
  constexpr int kBlocks = 4096;
  const int others = row_tiles * kv_heads * a.step.sequences;
  const int parts_max = static_cast<int>(AttentionPartsMax(a.step));
  const int parts = std::max(1, std::min(parts_max, kBlocks / others));
  Launch(DecodeKernel<kType, kHeadDim>,
         LaunchShape{.grid = dim3(parts, row_tiles * kv_heads, a.step.sequences),
                     .block = dim3(kAttentionThreads),
                     .shared_bytes = sizeof(DecodeShared<KvTile<kType, kHeadDim>, kHeadDim>),
                     .stream = a.stream},
         a);
}

template <KvDType kType>
void LaunchDecodeOfType(const AttentionArgs& a) {
  if (a.cache.head_dim == 64) return LaunchDecode<kType, 64>(a);
  if (a.cache.head_dim == 128) return LaunchDecode<kType, 128>(a);
  return LaunchDecode<kType, 256>(a);
}

template <int kHeadDim>
void LaunchMerge(const AttentionArgs& a) {
  const int blocks = (a.step.tokens * a.heads + kAttentionWarps - 1) / kAttentionWarps;
  Launch(MergeKernel<kHeadDim>,
         LaunchShape{.grid = dim3(std::min(blocks, 2048)),
                     .block = dim3(kAttentionThreads),
                     .shared_bytes = 0,
                     .stream = a.stream},
         a);
}

}  // namespace

void LaunchAttentionDecode(const AttentionArgs& a) {
  if (a.cache.dtype == KvDType::kBF16) return LaunchDecodeOfType<KvDType::kBF16>(a);
  return LaunchDecodeOfType<KvDType::kInt8>(a);
}

void LaunchAttentionMerge(const AttentionArgs& a) {
  if (a.cache.head_dim == 64) return LaunchMerge<64>(a);
  if (a.cache.head_dim == 128) return LaunchMerge<128>(a);
  return LaunchMerge<256>(a);
}

}  // namespace trireme::cuda
