#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/bf16_pairs.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/kv_layer.h"

namespace trireme::cuda {

// Sixty-four positions of keys and values on their way from pages through shared memory into the B
// operands of mma.m16n8k16. All kernels here have four warps; warp w brings positions [16w, 16w +
// 16) of a tile, which lie in one page, its keys and its values each in one piece.

inline constexpr int kTile = 64;
inline constexpr int kTileGroups = kTile / static_cast<int>(kKeyGroup);
inline constexpr int kAttentionWarps = kTileGroups;
inline constexpr int kAttentionThreads = kAttentionWarps * 32;

// B operands of two neighbouring products: sixteen k by twice eight n.
struct OperandPair {
  uint32_t b[2][2];  // [n / 8][register]
};

// Where a tile's parts lie in shared memory, and how operands are read from them.
//
// A page holds keys as [head_dim, 16 positions]: k of q . k runs along the rows of memory, as B
// wants it along a register, so ldmatrix with .trans reads the operand as it lies. Values are
// [position, head_dim], and k of the second product is the position: .trans again.
//
// ldmatrix reads eight rows of 16 bytes at once, which should lie in different banks. Rows of
// bfloat16 keys are 32 bytes: their halves trade places in every other four rows. Rows of values
// get 16 bytes of padding. Int8 keys are rows of 16 bytes, with nothing to do.
//
// To ldmatrix a pair of int8 neighbours is one element, so a register holds two columns of two
// rows. The even columns become one product's operand, the odd ones the other's: which position or
// dimension a column stands for is Column()'s to say, and sums do not care.
template <KvDType kType, int kHeadDim>
struct KvTile {
  static_assert(kType == KvDType::kBF16 || kType == KvDType::kInt8);
  static constexpr bool kScaled = kType == KvDType::kInt8;
  static constexpr int kElementBytes = kScaled ? 1 : 2;
  static constexpr int kGroupBytes = 16 * kHeadDim * kElementBytes;  // in a page
  static constexpr int kChunks = kGroupBytes / 16;                   // copied 16 bytes at a time
  static constexpr int kRowChunks = kHeadDim * kElementBytes / 16;   // of values
  static constexpr int kValueRowBytes = kHeadDim * kElementBytes + 16;
  static constexpr int kKeyBytes = kTileGroups * kGroupBytes;
  static constexpr int kValueBytes = kTile * kValueRowBytes;

  // KvHeadBytes, of this type.
  __device__ static int64_t HeadBytes(const KvLayer& cache) {
    return cache.block_size * (kRowChunks * 16 + (kScaled ? 4 : 0));
  }

  // What column 2 * quad + c of product n of a pair stands for, counted within its sixteen.
  __device__ static constexpr int Column(int n, int quad, int c) {
    return kScaled ? 4 * quad + 2 * c + n : 8 * n + 2 * quad + c;
  }

  // Dimensions [16 k, 16 k + 16) of the sixteen positions of a group.
  __device__ static OperandPair Keys(const std::byte* keys, int group, int k, int lane) {
    const int matrix = lane / 8, row = lane % 8;
    const std::byte* from = keys + group * kGroupBytes;
    OperandPair pair;
    if constexpr (kScaled) {
      uint32_t words[2];
      LoadMatrix2Transposed(words, from + (16 * k + (matrix & 1) * 8 + row) * 16);
      for (int i = 0; i < 2; ++i) Unzip(words[i], pair.b[0][i], pair.b[1][i]);
    } else {
      uint32_t words[4];
      const int half = (matrix >> 1) ^ KeySwizzle(row);
      LoadMatrix4Transposed(words, from + (16 * k + (matrix & 1) * 8 + row) * 32 + half * 16);
      for (int i = 0; i < 4; ++i) pair.b[i / 2][i % 2] = words[i];
    }
    return pair;
  }

  // Dimensions [16 n, 16 n + 16) of the sixteen positions of a group.
  __device__ static OperandPair Values(const std::byte* values, int group, int n, int lane) {
    const int matrix = lane / 8, row = lane % 8;
    OperandPair pair;
    if constexpr (kScaled) {
      uint32_t words[2];
      LoadMatrix2Transposed(words, values + (16 * group + lane % 16) * kValueRowBytes + 16 * n);
      for (int i = 0; i < 2; ++i) Unzip(words[i], pair.b[0][i], pair.b[1][i]);
    } else {
      uint32_t words[4];
      LoadMatrix4Transposed(words, values + (16 * group + (matrix & 1) * 8 + row) * kValueRowBytes +
                                       (2 * n + (matrix >> 1)) * 16);
      for (int i = 0; i < 4; ++i) pair.b[i / 2][i % 2] = words[i];
    }
    return pair;
  }

  // One row's share of sixteen outputs, [product][c], from and to memory.
  __device__ static void LoadColumns(const float* from, int quad, float (&x)[2][2]) {
    if constexpr (kScaled) {
      const float4 v = *reinterpret_cast<const float4*>(from + 4 * quad);
      x[0][0] = v.x, x[1][0] = v.y, x[0][1] = v.z, x[1][1] = v.w;
    } else {
      for (int n = 0; n < 2; ++n) {
        const float2 v = *reinterpret_cast<const float2*>(from + 8 * n + 2 * quad);
        x[n][0] = v.x, x[n][1] = v.y;
      }
    }
  }
  __device__ static void StoreColumns(float* to, int quad, const float (&x)[2][2]) {
    if constexpr (kScaled) {
      *reinterpret_cast<float4*>(to + 4 * quad) = float4{x[0][0], x[1][0], x[0][1], x[1][1]};
    } else {
      for (int n = 0; n < 2; ++n) {
        *reinterpret_cast<float2*>(to + 8 * n + 2 * quad) = float2{x[n][0], x[n][1]};
      }
    }
  }

  // The row of a group's value by its position: of int8, the even positions come first, so that
  // the eight rows of a matrix are neighbours.
  __device__ static int ValueRow(int position) {
    return kScaled ? position % 2 * 8 + position / 2 : position;
  }

  // Whether the halves of a key's row of 32 bytes trade places; d is its dimension.
  __device__ static int KeySwizzle(int d) { return (d >> 2) & 1; }

 private:
  // Four int8 as two pairs of bfloat16, exactly: bytes 0 and 2, bytes 1 and 3.
  __device__ static void Unzip(uint32_t word, uint32_t& even, uint32_t& odd) {
    even = Int8PairToBf16(word & 0x00ff00ff);
    odd = Int8PairToBf16((word >> 8) & 0x00ff00ff);
  }
};

// The scales of a tile of int8.
struct TileScales {
  alignas(16) float keys[kTile];
  alignas(16) float values[kTile];
};

// Copies a warp's sixteen positions of one tile after another of one sequence and KV head.
template <class Tile>
class TileLoader {
 public:
  // Positions outside [begin, end) are not read, their values become zeros.
  __device__ TileLoader(const KvLayer& cache, const int32_t* block_table, int kv_head, int begin,
                        int end, int warp, int lane)
      : k_(cache.k + kv_head * Tile::HeadBytes(cache)),
        v_(cache.v + kv_head * Tile::HeadBytes(cache)),
        page_bytes_(cache.num_kv_heads * Tile::HeadBytes(cache)),
        block_table_(block_table),
        block_size_(static_cast<int>(cache.block_size)),
        begin_(begin),
        end_(end),
        warp_(warp),
        lane_(lane) {}

  // Looks up the page of the tile to be copied next, ahead of time.
  __device__ void Find(int tile) {
    const int at = tile + 16 * warp_;
    if (Seen(at)) {
      slot_ = at % block_size_;
      page_ = block_table_[at / block_size_];
    }
  }

  // Of the tile that was found.
  __device__ void CopyKeys(std::byte* keys, int tile) const {
    if (!Seen(tile + 16 * warp_)) return;  // the scores will be masked
    const std::byte* head = k_ + page_ * page_bytes_;
    const std::byte* from = head + slot_ / 16 * Tile::kGroupBytes;
    std::byte* to = keys + warp_ * Tile::kGroupBytes;
#pragma unroll 2
    for (int i = 0; i < Tile::kChunks / 32; ++i) {
      const int chunk = i * 32 + lane_;
      // 16 rows of 32 bytes in each round, so the swizzle is the lane's.
      const int swizzle = Tile::kScaled ? 0 : Tile::KeySwizzle(lane_ / 2);
      CopyAsync16(to + (chunk ^ swizzle) * 16, from + chunk * 16);
    }
  }

  // Of keys and values, if the type has any.
  __device__ void CopyScales(TileScales& scales, int tile) const {
    if (!Tile::kScaled || lane_ >= 8 || !Seen(tile + 16 * warp_)) return;
    const std::byte* head = (lane_ < 4 ? k_ : v_) + page_ * page_bytes_;
    const int at = lane_ % 4 * 4;
    CopyAsync16((lane_ < 4 ? scales.keys : scales.values) + 16 * warp_ + at,
                head + block_size_ * Tile::kRowChunks * 16 + (slot_ + at) * 4);
  }

  __device__ void CopyValues(std::byte* values, int tile) const {
    const int at = tile + 16 * warp_;
    const bool seen = Seen(at);
    const std::byte* head = seen ? v_ + page_ * page_bytes_ : v_;
    const std::byte* from = seen ? head + slot_ / 16 * Tile::kGroupBytes : v_;
    std::byte* to = values + 16 * warp_ * Tile::kValueRowBytes;
#pragma unroll 2
    for (int i = 0; i < Tile::kChunks / 32; ++i) {
      const int chunk = i * 32 + lane_;
      const int row = chunk / Tile::kRowChunks;
      std::byte* slot =
          to + Tile::ValueRow(row) * Tile::kValueRowBytes + chunk % Tile::kRowChunks * 16;
      // Weights are zero there, but zero times what memory held before need not be.
      CopyAsync16(slot, from + chunk * 16, at + row >= begin_ && at + row < end_);
    }
  }

 private:
  __device__ bool Seen(int at) const { return at < end_ && at + 16 > begin_; }

  const std::byte* k_;
  const std::byte* v_;
  int64_t page_bytes_;
  const int32_t* block_table_;
  int block_size_;
  int begin_;
  int end_;
  int warp_;
  int lane_;
  int slot_ = 0;
  int64_t page_ = 0;
};

}  // namespace trireme::cuda
