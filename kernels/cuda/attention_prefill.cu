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

// One buffer each: keys come while values are multiplied and the other way round, and two blocks on
// a multiprocessor fill each other's gaps. Queries are read again for every tile, registers being
// the accumulators'; a row's padding keeps ldmatrix free of bank conflicts.
template <class Tile, int kHeadDim, int kRows>
struct PrefillShared {
  static constexpr int kQueryRowBytes = kHeadDim * 2 + 16;
  alignas(16) std::byte keys[Tile::kKeyBytes];
  alignas(16) std::byte values[Tile::kValueBytes];
  alignas(16) std::byte queries[kRows * kQueryRowBytes];
  MergedSoftmax merged[kRows][4];  // a thread's own, too seldom used for registers
  TileScales scales[2];            // come with the keys, and go with the softmax: a tile later
};

// A warp's 16 * kOperands rows: row t * group + h is head h of token t of a segment, which is a
// run of tokens of one sequence.
template <class Tile, int kHeadDim, int kOperands>
class PrefillRows {
 public:
  static constexpr int kWarpRows = 16 * kOperands;
  using Shared = PrefillShared<Tile, kHeadDim, kWarpRows * kAttentionWarps>;

  __device__ PrefillRows(const AttentionArgs& a, Shared& shared, int kv_head)
      : a_(a),
        shared_(shared),
        group_(a.heads / static_cast<int>(a.cache.num_kv_heads)),
        first_head_(kv_head * group_),
        warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        scale_log2_(a.scale * kLog2E) {}

  // Tokens [first_token, end_token), the first at `position`.
  __device__ void Begin(int first_token, int end_token, int position) {
    first_token_ = first_token;
    first_position_ = position;
    rows_ = (end_token - first_token) * group_;
    parts_done_ = 0;
    LoadQueries();
    for (int m = 0; m < kOperands; ++m) {
      for (int i = 0; i < 2; ++i) Merged(m, i) = MergedSoftmax();
    }
    BeginPart();
  }

  // Whether all of the warp's rows see all of a tile.
  __device__ bool AllSeen(int tile) const {
    const int first_row = warp_ * kWarpRows, end_row = first_row + kWarpRows;
    return end_row <= rows_ && tile + kTile <= Position(first_row) + 1 &&
           tile >= FirstSeen(a_, Position(end_row - 1));
  }

  __device__ void Multiply() {
#pragma unroll
    for (int m = 0; m < kOperands; ++m) {
#pragma unroll
      for (int j = 0; j < kTileGroups * 8; ++j) s_[m][j / 8][j / 4 % 2][j % 4] = 0.0f;
    }
    // Matrices of ldmatrix: rows 0-7 and 8-15, then the same of the next eight dimensions.
    const std::byte* queries = shared_.queries +
                               (warp_ * kWarpRows + lane_ % 16) * Shared::kQueryRowBytes +
                               lane_ / 16 * 16;
#pragma unroll 4
    for (int k = 0; k < kHeadDim / 16; ++k) {
      uint32_t q[kOperands][4];
#pragma unroll
      for (int m = 0; m < kOperands; ++m) {
        LoadMatrix4(q[m], queries + m * 16 * Shared::kQueryRowBytes + k * 32);
      }
#pragma unroll
      for (int g = 0; g < kTileGroups; ++g) {
        const OperandPair keys = Tile::Keys(shared_.keys, g, k, lane_);
#pragma unroll
        for (int m = 0; m < kOperands; ++m) {
          for (int n = 0; n < 2; ++n) MmaBf16(s_[m][g][n], q[m], keys.b[n]);
        }
      }
    }
  }

  // Scores become weights.
  __device__ void Softmax(const TileScales& scales, int tile) {
    const bool all_seen = AllSeen(tile);
#pragma unroll
    for (int m = 0; m < kOperands; ++m) {
#pragma unroll
      for (int g = 0; g < kTileGroups; ++g) {
        ScaleScores<Tile>(s_[m][g], scales.keys + 16 * g, lane_ % 4);
      }
      if (!all_seen) Mask(m, tile);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        RowSoftmax& row = softmax_[m][i];
        float max = GroupMax(s_[m][0], i);
        for (int g = 1; g < kTileGroups; ++g) max = fmaxf(max, GroupMax(s_[m][g], i));
        const float keep = row.Raise(QuadMax(max), scale_log2_);
        const float offset = row.Offset(scale_log2_);
        float sums[kTileGroups];
#pragma unroll
        for (int g = 0; g < kTileGroups; ++g) {
          sums[g] = GroupWeights(s_[m][g], i, offset, scale_log2_);
        }
        row.Add(keep, sums);
#pragma unroll
        for (int p = 0; p < kPairs; ++p) {
          for (int j = 0; j < 4; ++j) out_[m][p][j / 2][2 * i + j % 2] *= keep;
        }
      }
#pragma unroll
      for (int g = 0; g < kTileGroups; ++g) {
        PackWeights<Tile>(s_[m][g], scales.values + 16 * g, lane_ % 4, weights_[m][g]);
      }
    }
  }

  __device__ void AddValues() {
#pragma unroll
    for (int g = 0; g < kTileGroups; ++g) {
#pragma unroll
      for (int p = 0; p < kPairs; ++p) {
        const OperandPair values = Tile::Values(shared_.values, g, p, lane_);
#pragma unroll
        for (int m = 0; m < kOperands; ++m) {
          for (int n = 0; n < 2; ++n) MmaBf16(out_[m][p][n], weights_[m][g], values.b[n]);
        }
      }
    }
  }

  // Merges a finished part into the rows' outputs; they wait in `out`, each thread's its own.
  __device__ void EndPart(bool last) {
#pragma unroll
    for (int m = 0; m < kOperands; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float sum = QuadSum(softmax_[m][i].sum);
        MergedSoftmax& merged = Merged(m, i);
        const auto worth = merged.Merge(softmax_[m][i].max, sum, scale_log2_);
        const int row = Row(m, i);
        if (row >= rows_) continue;
        const float factor = last ? 1.0f / merged.sum : 1.0f;
        float* out = a_.out + QueryOffset(a_, first_token_ + row / group_, Head(row));
#pragma unroll
        for (int p = 0; p < kPairs; ++p) {
          float x[2][2] = {};
          if (parts_done_ > 0) Tile::LoadColumns(out + 16 * p, lane_ % 4, x);
          for (int j = 0; j < 4; ++j) {
            float& value = x[j / 2][j % 2];
            value = MergeOutput(worth, value, out_[m][p][j / 2][2 * i + j % 2]) * factor;
          }
          Tile::StoreColumns(out + 16 * p, lane_ % 4, x);
        }
      }
    }
    ++parts_done_;
    BeginPart();
  }

 private:
  static constexpr int kPairs = kHeadDim / 16;  // of products

  __device__ int Position(int row) const { return first_position_ + row / group_; }
  __device__ int Head(int row) const { return first_head_ + row % group_; }
  __device__ int Row(int m, int i) const { return warp_ * kWarpRows + 16 * m + lane_ / 4 + 8 * i; }

  __device__ MergedSoftmax& Merged(int m, int i) { return shared_.merged[Row(m, i)][lane_ % 4]; }

  // The warp's own rows, which no other reads.
  __device__ void LoadQueries() {
    SyncWarp();
    for (int j = 0; j < kWarpRows; ++j) {
      const int row = warp_ * kWarpRows + j;
      auto* to = reinterpret_cast<uint2*>(shared_.queries + row * Shared::kQueryRowBytes);
      const float* q = a_.q + QueryOffset(a_, first_token_ + row / group_, Head(row));
      for (int c = lane_; c < kHeadDim / 4; c += 32) {
        const float4 x = row < rows_ ? *reinterpret_cast<const float4*>(q + 4 * c)
                                     : float4{0.0f, 0.0f, 0.0f, 0.0f};
        to[c] = uint2{PairOf(x.x, x.y), PairOf(x.z, x.w)};
      }
    }
    SyncWarp();
  }

  __device__ void BeginPart() {
#pragma unroll
    for (int m = 0; m < kOperands; ++m) {
      for (int i = 0; i < 2; ++i) softmax_[m][i] = RowSoftmax();
#pragma unroll
      for (int p = 0; p < kPairs; ++p) {
        for (int j = 0; j < 8; ++j) out_[m][p][j / 4][j % 4] = 0.0f;
      }
    }
  }

  __device__ void Mask(int m, int tile) {
    SeenRange seen[2];
    for (int i = 0; i < 2; ++i) {
      const int row = Row(m, i), position = Position(row);
      seen[i] = {FirstSeen(a_, position), row < rows_ ? position + 1 : 0};
    }
#pragma unroll
    for (int g = 0; g < kTileGroups; ++g) {
      MaskScores<Tile>(s_[m][g], seen, tile + 16 * g, lane_ % 4);
    }
  }

  const AttentionArgs& a_;
  Shared& shared_;
  const int group_;
  const int first_head_;
  const int warp_;
  const int lane_;
  const float scale_log2_;
  int first_token_ = 0;
  int first_position_ = 0;
  int rows_ = 0;  // of all warps
  int parts_done_ = 0;
  GroupScores s_[kOperands][kTileGroups];
  uint32_t weights_[kOperands][kTileGroups][4];  // operands A of the second product
  float out_[kOperands][kHeadDim / 16][2][4];
  RowSoftmax softmax_[kOperands][2];
};

// Tokens [first_token, end_token) of `sequence`.
template <class Tile, class Rows>
__device__ void Segment(const AttentionArgs& a, typename Rows::Shared& shared, Rows& rows,
                        int kv_head, int sequence, int first_token, int end_token) {
  const int position = a.step.positions[first_token];
  const int begin = FirstSeen(a, position), end = position + end_token - first_token;
  TileLoader<Tile> loader(a.cache, a.step.block_tables + int64_t{sequence} * a.step.blocks_max,
                          kv_head, begin, end, static_cast<int>(threadIdx.x) / 32,
                          static_cast<int>(threadIdx.x) % 32);
  int tile = begin / kTile * kTile;
  loader.Find(tile);
  loader.CopyKeys(shared.keys, tile);
  loader.CopyScales(shared.scales[tile / kTile % 2], tile);
  CommitCopies();
  loader.CopyValues(shared.values, tile);
  CommitCopies();
  rows.Begin(first_token, end_token, position);
  for (; tile < end; tile += kTile) {
    const int next = tile + kTile;
    loader.Find(next);
    WaitCopies<1>();
    SyncThreads();
    rows.Multiply();
    SyncThreads();
    if (next < end) {
      loader.CopyKeys(shared.keys, next);
      loader.CopyScales(shared.scales[next / kTile % 2], next);
    }
    CommitCopies();
    rows.Softmax(shared.scales[tile / kTile % 2], tile);
    WaitCopies<1>();
    SyncThreads();
    rows.AddValues();
    SyncThreads();
    if (next < end) loader.CopyValues(shared.values, next);
    CommitCopies();
    if (next >= end || next % kAttentionSplit == 0) rows.EndPart(next >= end);
  }
}

// Grid: runs of as many tokens as fill the rows, KV heads. The last come first: they see most.
template <KvDType kType, int kHeadDim, int kOperands>
__global__ void __launch_bounds__(kAttentionThreads, 2) PrefillKernel(const AttentionArgs a) {
  using Tile = KvTile<kType, kHeadDim>;
  using Rows = PrefillRows<Tile, kHeadDim, kOperands>;
  typename Rows::Shared& shared = *DynamicShared<typename Rows::Shared>();
  const int kv_head = static_cast<int>(blockIdx.y);
  const int group = a.heads / static_cast<int>(a.cache.num_kv_heads);
  const int run = Rows::kWarpRows * kAttentionWarps / group;
  const int begin = static_cast<int>(gridDim.x - 1 - blockIdx.x) * run;
  const int end = min(begin + run, a.step.query_start[a.step.sequences]);
  Rows rows(a, shared, kv_head);
  for (int token = begin; token < end;) {
    const int sequence = a.step.sequence_of_token[token];
    const int sequence_end = a.step.query_start[sequence + 1];
    const int tokens = sequence_end - a.step.query_start[sequence];
    const int segment_end = min(end, sequence_end);
    if (tokens > a.step.split_query_max && a.step.positions[token] >= 0) {
      Segment<Tile>(a, shared, rows, kv_head, sequence, token, segment_end);
    }
    token = segment_end;
  }
}

template <KvDType kType, int kHeadDim, int kOperands>
void LaunchPrefill(const AttentionArgs& a) {
  using Rows = PrefillRows<KvTile<kType, kHeadDim>, kHeadDim, kOperands>;
  const int kv_heads = static_cast<int>(a.cache.num_kv_heads);
  const int run = Rows::kWarpRows * kAttentionWarps / (a.heads / kv_heads);
  Launch(PrefillKernel<kType, kHeadDim, kOperands>,
         LaunchShape{.grid = dim3((a.step.tokens + run - 1) / run, kv_heads),
                     .block = dim3(kAttentionThreads),
                     .shared_bytes = sizeof(typename Rows::Shared),
                     .stream = a.stream},
         a);
}

// With 32 rows a warp every operand read from shared memory serves two products; at 256 dimensions
// the accumulators leave room for 16.
template <KvDType kType>
void LaunchPrefillOfType(const AttentionArgs& a) {
  if (a.cache.head_dim == 64) return LaunchPrefill<kType, 64, 2>(a);
  if (a.cache.head_dim == 128) return LaunchPrefill<kType, 128, 2>(a);
  return LaunchPrefill<kType, 256, 1>(a);
}

}  // namespace

void LaunchAttentionPrefill(const AttentionArgs& a) {
  if (a.cache.dtype == KvDType::kBF16) return LaunchPrefillOfType<KvDType::kBF16>(a);
  return LaunchPrefillOfType<KvDType::kInt8>(a);
}

}  // namespace trireme::cuda
