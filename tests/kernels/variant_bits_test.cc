// One variant's kernel table against the scalar one, bit for bit. Built once for each variant that
// this machine runs, and once for AVX-512 over emulated intrinsics, so that its arithmetic is
// proven anywhere.

#include <gtest/gtest.h>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/kv_store.h"
#include "kernels/cpu/simd_scalar.h"
#ifdef TRIREME_EMULATE_AVX512
#include "tests/kernels/emulated_avx512.h"
//
#include "kernels/cpu/simd_avx512.h"
#endif
#include "tests/kernels/reference.h"

namespace trireme::cpu {
namespace {

std::vector<const KernelTable*> Variants() {
#ifdef TRIREME_EMULATE_AVX512
  static constexpr KernelTable kEmulated = MakeKernelTable<SimdAvx512>();
  return {&kEmulated};
#else
  std::vector<const KernelTable*> tables;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    tables.push_back(&Avx2Kernels());
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    tables.push_back(&Avx512Kernels());
    if (__builtin_cpu_supports("avx512vnni")) tables.push_back(&Avx512VnniKernels());
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16")) {
      tables.push_back(&Avx512Bf16Kernels());
    }
  }
  return tables;
#endif
}

constexpr KernelTable kScalar = MakeKernelTable<SimdScalar>();

std::vector<float> RunLinear(const KernelTable& table, DType dtype, int64_t tokens, int64_t rows,
                             int64_t cols, int groups) {
  const std::vector<float> x = RandomFloats(tokens * cols, 1);
  const std::vector<float> w = RandomFloats(rows * cols, 2);
  const std::vector<uint16_t> bits = ToBf16(w);  // taken as halves as well: any finite bits will do
  const std::vector<float> bias = RandomFloats(rows, 3);
  const void* data = dtype == DType::kF32 ? static_cast<const void*>(w.data()) : bits.data();
  const Weight weight{.data = data, .dtype = dtype, .rows = rows, .cols = cols, .row_stride = cols};
  std::vector<float> packed(x.size());
  for (int64_t t = 0; t < tokens; ++t) {
    table.pack_activations(x.data() + t * cols, t, tokens, weight, groups, packed.data());
  }
  const auto scratch = std::make_unique<LinearScratch>();
  std::vector<float> y(tokens * rows);
  table.linear({.x = packed.data(),
                .tokens = tokens,
                .weight = weight,
                .bias = bias.data(),
                .groups = groups,
                .y = y.data(),
                .scratch = scratch.get()},
               0, rows);
  return y;
}

TEST(VariantBits, Linear) {
  for (const KernelTable* table : Variants()) {
    for (const DType dtype : {DType::kF32, DType::kF16}) {
      for (const int64_t tokens : {1, 2, 4, 5, 9, 66}) {
        // Up to a block of columns and past it, with and without a tail in each group.
        for (const int64_t cols : {8, 40, 136, 8 * 528, 8 * 600}) {
          EXPECT_TRUE(SameBits(RunLinear(*table, dtype, tokens, 27, cols, 8),
                               RunLinear(kScalar, dtype, tokens, 27, cols, 8)))
              << table->name << " " << DTypeName(dtype) << " " << tokens << " " << cols;
        }
      }
    }
  }
}

// Weights and activations of every magnitude, denormals too: those count as zero.
std::vector<float> RunBf16Linear(const KernelTable& table, int64_t tokens, int64_t rows,
                                 int64_t cols, int groups) {
  std::mt19937 random(6);
  std::vector<uint16_t> stored(16 * cols);
  const quant::PackedLayout layout(DType::kBF16, rows, cols, 0);
  std::vector<std::byte> weight(layout.bytes());
  for (int64_t panel = 0; panel < layout.panels(); ++panel) {
    for (uint16_t& bits : stored) {
      const uint32_t exponent = random() % 4 == 0 ? random() % 60 : 110 + random() % 20;
      bits = static_cast<uint16_t>((random() & 0x807f) | (exponent << 7));
    }
    quant::PackPanel(DType::kBF16, layout, panel, reinterpret_cast<std::byte*>(stored.data()),
                     cols * 2, weight.data() + panel * layout.panel_bytes);
  }
  std::vector<float> x = RandomFloats(tokens * cols, 1);
  for (float& value : x) {
    if (random() % 4 == 0) value *= 0x1p-100f;
    if (random() % 4 == 0) value *= 0x1p-40f;
  }
  std::vector<uint32_t> pairs(tokens * layout.blocks);
  for (int64_t t = 0; t < tokens; ++t) {
    table.round_row(x.data() + t * cols, cols, pairs.data() + t * layout.blocks);
  }
  const auto sums = std::make_unique<PanelSums>();
  std::vector<float> y(tokens * rows);
  table.bf16_linear({.x = pairs.data(),
                     .tokens = tokens,
                     .weight = weight.data(),
                     .layout = &layout,
                     .bias = nullptr,
                     .groups = groups,
                     .y = y.data()},
                    0, layout.panels(), *sums);
  std::vector<float> row(cols);
  table.widen_bf16_row(weight.data(), layout, rows - 1, row.data());
  y.insert(y.end(), row.begin(), row.end());
  return y;
}

TEST(VariantBits, Bf16Linear) {
  for (const KernelTable* table : Variants()) {
    for (const int64_t tokens : {1, 2, 4, 5, 9, 100}) {
      for (const auto& [cols, groups] : {std::pair<int64_t, int>{7, 1}, {40, 4}, {4096, 8}}) {
        EXPECT_TRUE(SameBits(RunBf16Linear(*table, tokens, 37, cols, groups),
                             RunBf16Linear(kScalar, tokens, 37, cols, groups)))
            << table->name << " " << tokens << " " << cols;
      }
    }
  }
}

// Any bytes will do for weights, with scales that are finite.
std::vector<std::byte> RandomPacked(DType dtype, const quant::PackedLayout& layout) {
  const DTypeInfo info = DTypeBlock(dtype);
  const int64_t row_bytes = (layout.blocks + 8) * 32 / info.block_elements * info.block_bytes;
  std::vector<std::byte> stored(16 * row_bytes);
  std::mt19937 random(5);
  for (std::byte& b : stored) b = static_cast<std::byte>(random() & 0x3b);  // of halves: below 1
  std::vector<std::byte> packed(layout.bytes());
  for (int64_t panel = 0; panel < layout.panels(); ++panel) {
    quant::PackPanel(dtype, layout, panel, stored.data(), row_bytes,
                     packed.data() + panel * layout.panel_bytes);
  }
  return packed;
}

std::vector<float> RunQuantLinear(const KernelTable& table, DType dtype, int64_t tokens,
                                  const quant::PackedLayout& layout,
                                  const std::vector<std::byte>& weight, int groups) {
  const int64_t cols = layout.blocks * 32;
  const std::vector<float> x = RandomFloats(tokens * cols, 1);
  const TokenTile last = TileOf(tokens - 1, tokens);
  std::vector<ActivationBlock> blocks((last.first + last.width) * layout.blocks);
  for (int64_t t = 0; t < tokens; ++t) {
    const TokenTile tile = TileOf(t, tokens);
    table.quantize_row(x.data() + t * cols, cols, dtype,
                       blocks.data() + tile.first * layout.blocks + t - tile.first, tile.width);
  }
  std::vector<float> y(tokens * layout.rows);
  const auto sums = std::make_unique<cpu::PanelSums>();
  table.quant_linear(dtype,
                     {.x = blocks.data(),
                      .tokens = tokens,
                      .weight = weight.data(),
                      .layout = &layout,
                      .bias = nullptr,
                      .groups = groups,
                      .y = y.data()},
                     0, layout.panels(), *sums);
  std::vector<float> row(cols);
  table.widen_quant_row(dtype, weight.data(), layout, layout.rows - 1, row.data());
  y.insert(y.end(), row.begin(), row.end());
  return y;
}

TEST(VariantBits, QuantisedLinear) {
  for (const KernelTable* table : Variants()) {
    for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                              DType::kQ2K, DType::kQ3K, DType::kQ4K, DType::kQ5K, DType::kQ6K,
                              DType::kIQ4NL, DType::kInt8, DType::kInt4Zero}) {
      const quant::PackedLayout layout(dtype, 50, 512, 0);
      const std::vector<std::byte> weight = RandomPacked(dtype, layout);
      for (const int64_t tokens : {1, 2, 3, 4, 5, 7, 10, 16, 100}) {
        EXPECT_TRUE(SameBits(RunQuantLinear(*table, dtype, tokens, layout, weight, 4),
                             RunQuantLinear(kScalar, dtype, tokens, layout, weight, 4)))
            << table->name << " " << DTypeName(dtype) << " " << tokens;
      }
      // Groups that end inside what is taken at a time, more tokens than have sums at a time.
      const quant::PackedLayout wide(dtype, 50, 42 * 32, 0);
      const std::vector<std::byte> wide_weight = RandomPacked(dtype, wide);
      EXPECT_TRUE(SameBits(RunQuantLinear(*table, dtype, 300, wide, wide_weight, 2),
                           RunQuantLinear(kScalar, dtype, 300, wide, wide_weight, 2)))
          << table->name << " " << DTypeName(dtype);
    }
  }
}

TEST(VariantBits, RmsNormRopeActivationsAdd) {
  for (const KernelTable* table : Variants()) {
    for (const int64_t n : {2, 16, 46, 96}) {
      const std::vector<float> x = RandomFloats(n, 4, 20.0f);
      const std::vector<float> y = RandomFloats(n, 5);
      const auto run = [&](const KernelTable& t) {
        std::vector<float> norm(n), rope = x, silu = x, gelu = x, sum = x;
        t.rms_norm_row(x.data(), y.data(), 1e-5f, n, norm.data());
        t.rope_head(rope.data(), y.data(), y.data() + n / 2, n / 2);
        t.silu_mul(silu.data(), y.data(), n, silu.data());
        t.gelu_tanh_mul(gelu.data(), y.data(), n, gelu.data());
        t.add(sum.data(), y.data(), n);
        for (const auto& part : {rope, silu, gelu, sum})
          norm.insert(norm.end(), part.begin(), part.end());
        return norm;
      };
      EXPECT_TRUE(SameBits(run(*table), run(kScalar))) << table->name << " " << n;
    }
  }
}

TEST(VariantBits, ExpOverItsRange) {
  // SiLU is x / (1 + e^-x): a dense sweep shows every exponent.
  std::vector<float> sweep;
  for (float x = -100; x < 100; x += 0.013f) sweep.push_back(x);
  const std::vector<float> ones(sweep.size(), 1.0f);
  std::vector<float> want = sweep;
  kScalar.silu_mul(want.data(), ones.data(), static_cast<int64_t>(want.size()), want.data());
  for (const KernelTable* table : Variants()) {
    std::vector<float> got = sweep;
    table->silu_mul(got.data(), ones.data(), static_cast<int64_t>(got.size()), got.data());
    EXPECT_TRUE(SameBits(got, want)) << table->name;
  }
}

TEST(VariantBits, TopKSoftmax) {
  constexpr int64_t kScores = 60, kChosen = 8;
  for (const KernelTable* table : Variants()) {
    for (uint32_t seed = 0; seed < 50; ++seed) {
      const std::vector<float> scores = RandomFloats(kScores, seed, 10.0f);
      const auto run = [&](const KernelTable& t) {
        std::vector<int32_t> ids(kChosen);
        std::vector<float> weights(kChosen);
        t.top_k_softmax(scores.data(), kScores, kChosen, ids.data(), weights.data());
        weights.insert(weights.end(), ids.begin(), ids.end());
        return weights;
      };
      EXPECT_TRUE(SameBits(run(*table), run(kScalar))) << table->name;
    }
  }
}

TEST(VariantBits, AttentionOfEveryCacheType) {
  constexpr int64_t kBlock = 32, kDim = 24, kGroup = 10, kPages = 3, kTokens = 3;
  constexpr int64_t kStride = kGroup * kDim;
  const std::vector<float> q = RandomFloats(kTokens * kStride, 6, 3.0f);
  const std::vector<float> k = RandomFloats(kPages * kBlock * kDim, 7, 2.0f);
  const std::vector<float> v = RandomFloats(kPages * kBlock * kDim, 8);
  const std::vector<int32_t> block_table = {2, 0, 1};
  for (const KvDType dtype : {KvDType::kF32, KvDType::kBF16, KvDType::kInt8}) {
    KvLayer cache{.dtype = dtype, .num_kv_heads = 1, .block_size = kBlock, .head_dim = kDim};
    std::vector<std::byte> k_pages(kPages * cache.page_bytes()), v_pages(k_pages.size());
    for (int64_t i = 0; i < kPages * kBlock; ++i) {
      const int64_t page = i / kBlock * cache.page_bytes();
      StoreKey(cache, k.data() + i * kDim, k_pages.data() + page, i % kBlock);
      StoreValue(cache, v.data() + i * kDim, v_pages.data() + page, i % kBlock);
    }
    for (const KernelTable* table : Variants()) {
      for (const int64_t position : {0, 14, 15, 44, 93}) {
        // Tokens together, or `at_once` by themselves.
        const auto run = [&](const KernelTable& t, int64_t at_once) {
          std::vector<float> out(kTokens * kStride);
          for (int64_t token = 0; token < kTokens; token += at_once) {
            t.attention({.q = q.data() + token * kStride,
                         .tokens = at_once,
                         .token_stride = kStride,
                         .group = kGroup,
                         .k = k_pages.data(),
                         .v = v_pages.data(),
                         .page_bytes = cache.page_bytes(),
                         .dtype = dtype,
                         .block_table = block_table.data(),
                         .block_size = kBlock,
                         .head_dim = kDim,
                         .scale = 0.3f,
                         .position = position + token,
                         .window = position > 40 ? 39 : 0,
                         .out = out.data() + token * kStride});
          }
          return out;
        };
        EXPECT_TRUE(SameBits(run(*table, kTokens), run(kScalar, 1)))
            << table->name << " " << KvDTypeName(dtype) << " " << position;
        EXPECT_TRUE(SameBits(run(*table, 1), run(kScalar, 1)))
            << table->name << " " << KvDTypeName(dtype) << " " << position;
      }
    }
  }
}

}  // namespace
}  // namespace trireme::cpu
