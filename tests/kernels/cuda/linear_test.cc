// Products on the device against double precision: every way, type and shape, with poisoned
// outputs.

#include "kernels/cuda/linear.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <tuple>
#include <type_traits>

#include "kernels/bfloat16.h"
#include "kernels/cuda/linear_kernels.h"
#include "kernels/cuda/linear_plan.h"
#include "kernels/cuda/runtime.h"
#include "tests/kernels/cuda/device_array.h"
#include "tests/kernels/quant_golden.h"
#include "tests/kernels/reference.h"

namespace trireme::cuda {
namespace {

// A matrix on the device and its values, as float.
struct Matrix {
  Weight weight;
  std::vector<float> values;
  std::unique_ptr<DeviceArray<std::byte>> memory;
};

Matrix Quantized(DType dtype, int64_t rows, int64_t begin, int64_t end, int repeats = 1) {
  const Stored stored(dtype, repeats);
  Matrix m;
  m.memory = std::make_unique<DeviceArray<std::byte>>(stored.Pack(rows, begin, end, m.weight));
  m.weight.data = m.memory->data();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = begin; c < end; ++c) m.values.push_back(stored.Value(r, c));
  }
  return m;
}

// Row-major, with `gap` elements between rows that nobody may use.
Matrix Floats(DType dtype, int64_t rows, int64_t cols, int64_t gap) {
  Matrix m;
  const int64_t stride = cols + gap;
  const int64_t size = dtype == DType::kF32 ? 4 : 2;
  std::vector<std::byte> bytes(rows * stride * size, std::byte{0xff});
  m.values = RandomFloats(rows * cols, 11);
  for (int64_t i = 0; i < rows * cols; ++i) {
    std::byte* to = bytes.data() + (i / cols * stride + i % cols) * size;
    float& value = m.values[i];
    if (dtype == DType::kF32) {
      std::memcpy(to, &value, 4);
    } else {
      // A float16 of bfloat16's precision, put together from its fields; it must be a normal one.
      if (std::abs(value) < 0x1p-14f) value = 0.5f;
      const uint32_t word = uint32_t{RoundToBf16(std::clamp(value, -4.0f, 4.0f))} << 16;
      const auto half =
          static_cast<uint16_t>(((word >> 16) & 0x8000) | (((word >> 13) - (112 << 10)) & 0x7fff));
      const auto bits = dtype == DType::kF16 ? half : static_cast<uint16_t>(word >> 16);
      std::memcpy(to, &bits, 2);
      value = static_cast<float>(dtype == DType::kF16 ? HalfToDouble(half) : Bf16ToDouble(bits));
    }
  }
  m.memory = std::make_unique<DeviceArray<std::byte>>(bytes);
  m.weight = {
      .data = m.memory->data(), .dtype = dtype, .rows = rows, .cols = cols, .row_stride = stride};
  return m;
}

// x as products read it.
float Rounded(DType dtype, float x) {
  if (dtype == DType::kF32) return x;
  if (dtype != DType::kF16) return std::bit_cast<float>(uint32_t{RoundToBf16(x)} << 16);
  // Eleven bits, ties to even; the tests' x are in float16's normal range or cut to it.
  int exponent = 0;
  const float mantissa = std::frexp(std::clamp(x, -65504.0f, 65504.0f), &exponent);
  const int last = std::max(exponent - 11, -24);
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, exponent - last)), last);
}

class LinearTest : public testing::Test {
 public:
  LinearTest() : gemm_(*Gemm::Create()) {}

  // The products' y.
  std::vector<std::vector<float>> Run(const std::vector<float>& x, int64_t tokens,
                                      const std::vector<const Matrix*>& matrices,
                                      const std::vector<std::vector<float>>& biases = {}) {
    const DeviceArray<float> device_x(x);
    std::vector<LinearProduct> products;
    std::vector<Weight> weights;
    std::vector<std::unique_ptr<DeviceArray<float>>> memory;
    for (size_t i = 0; i < matrices.size(); ++i) {
      const Weight& weight = matrices[i]->weight;
      LinearProduct product = {.weight = weight};
      memory.push_back(std::make_unique<DeviceArray<float>>(tokens * weight.rows));
      product.y = memory.back()->data();
      if (!biases.empty()) {
        memory.push_back(std::make_unique<DeviceArray<float>>(biases[i]));
        product.bias = memory.back()->data();
      }
      products.push_back(product);
      weights.push_back(weight);
    }
    const int64_t bytes = LinearWorkspaceBytes(tokens, weights, dequantize_bytes_);
    const DeviceArray<std::byte> workspace(bytes);
    EXPECT_EQ(cudaMemset(workspace.data(), 0, kLinearCounterBytes), cudaSuccess);
    const LinearArgs args = {.x = device_x.data(),
                             .tokens = tokens,
                             .products = products,
                             .workspace = workspace.data(),
                             .workspace_bytes = bytes,
                             .gemm = gemm_.get(),
                             .dequantize_bytes = dequantize_bytes_};
    // Twice: the counters must be zero again.
    for (int i = 0; i < 2; ++i) {
      for (const LinearProduct& p : products) {
        EXPECT_EQ(cudaMemset(p.y, 0xff, tokens * p.weight.rows * sizeof(float)), cudaSuccess);
      }
      const absl::Status status = Linear(args);
      EXPECT_TRUE(status.ok()) << status;
    }
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    std::vector<std::vector<float>> y;
    for (size_t i = 0; i < memory.size(); i += biases.empty() ? 1 : 2) {
      y.push_back(memory[i]->ToHost());
    }
    return y;
  }

  // Largest error of y, relative to the sum of magnitudes that the weights' parts may have.
  // Weights count as bfloat16 with `round_weights`.
  double Error(const Matrix& m, const std::vector<float>& x, int64_t tokens,
               const std::vector<float>& bias, const std::vector<float>& y, bool round_weights) {
    const int64_t rows = m.weight.rows;
    const int64_t cols = m.weight.cols;
    std::vector<float> rounded(x.size());
    for (size_t i = 0; i < x.size(); ++i) rounded[i] = Rounded(m.weight.dtype, x[i]);
    double worst = 0;
    for (int64_t r = 0; r < rows; ++r) {
      float largest = 0;  // of the row's weights: a format's mins are no larger
      for (int64_t k = 0; k < cols; ++k) {
        largest = std::max(largest, std::abs(m.values[r * cols + k]));
      }
      for (int64_t t = 0; t < tokens; ++t) {
        double sum = bias.empty() ? 0.0 : bias[r];
        double scale = std::abs(sum);
        for (int64_t k = 0; k < cols; ++k) {
          const float value = m.values[r * cols + k];
          sum += double{rounded[t * cols + k]} *
                 (round_weights ? Rounded(DType::kBF16, value) : value);
          scale += std::abs(double{rounded[t * cols + k]}) * largest;
        }
        const double error = std::abs(sum - y[t * rows + r]) / scale;
        if (std::isnan(error)) return error;
        worst = std::max(worst, error);
      }
    }
    return worst;
  }

  void ExpectRight(const Matrix& m, int64_t tokens, bool with_bias) {
    const std::vector<float> x = RandomFloats(tokens * m.weight.cols, 7);
    std::vector<std::vector<float>> biases;
    if (with_bias) biases.push_back(RandomFloats(m.weight.rows, 8));
    const std::vector<float> y = Run(x, tokens, {&m}, biases)[0];
    const bool dequantized = ChooseLinearPath(m.weight.dtype, tokens) == LinearPath::kDequantize;
    EXPECT_LT(Error(m, x, tokens, with_bias ? biases[0] : std::vector<float>(), y, dequantized),
              2e-6)
        << DTypeName(m.weight.dtype) << " " << tokens << " x " << m.weight.rows << " x "
        << m.weight.cols << " offset " << m.weight.block_offset;
  }

 protected:
  int64_t dequantize_bytes_ = kDequantizeBytes;
  std::unique_ptr<Gemm> gemm_;
};

// One expert's tokens are not another's, and nobody writes those of none; what is captured follows
// the ranges.
TEST_F(LinearTest, RangesOfTokensChangeBetweenReplays) {
  constexpr int64_t kTokens = 40, kMost = 34, kCols = 256;
  const std::vector<float> x = RandomFloats(kTokens * kCols, 7);
  const DeviceArray<float> device_x(x);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0, DType::kInt8}) {
    std::vector<Matrix> matrices;
    std::vector<std::unique_ptr<DeviceArray<float>>> y;
    for (const int64_t rows : {37, 70, 16}) {
      matrices.push_back(IsQuantized(dtype) ? Quantized(dtype, rows, 0, kCols)
                                            : Floats(dtype, rows, kCols, 8));
      y.push_back(std::make_unique<DeviceArray<float>>(kTokens * rows));
    }
    const DeviceArray<int32_t> first(matrices.size() + 1);
    std::vector<LinearProduct> products;
    std::vector<Weight> weights;
    for (size_t i = 0; i < matrices.size(); ++i) {
      products.push_back(
          {.weight = matrices[i].weight, .y = y[i]->data(), .token_range = first.data() + i});
      weights.push_back(matrices[i].weight);
    }
    const int64_t bytes = LinearWorkspaceBytes(kTokens, weights);
    const std::vector<std::byte> zeros(bytes);
    const DeviceArray<std::byte> workspace(zeros);
    const auto stream = Stream::Create();
    ASSERT_TRUE(stream.ok());
    const auto graph = Graph::Capture(*stream, [&] {
      return Linear({.x = device_x.data(),
                     .tokens = kTokens,
                     .products = products,
                     .range_tokens = kMost,
                     .workspace = workspace.data(),
                     .workspace_bytes = bytes,
                     .gemm = gemm_.get(),
                     .stream = stream->get()});
    });
    ASSERT_TRUE(graph.ok()) << graph.status();
    for (const std::vector<int32_t>& ranges :
         {std::vector<int32_t>{0, 23, 23, 39}, {0, 0, 34, 40}, {0, 1, 2, 3}}) {
      ASSERT_EQ(cudaMemcpy(first.data(), ranges.data(), ranges.size() * 4, cudaMemcpyHostToDevice),
                cudaSuccess);
      for (const auto& out : y) {
        ASSERT_EQ(cudaMemset(out->data(), 0xff, out->size() * sizeof(float)), cudaSuccess);
      }
      ASSERT_TRUE(graph->Launch(*stream).ok());
      for (size_t i = 0; i < matrices.size(); ++i) {
        const std::vector<float> got = y[i]->ToHost();
        const int64_t rows = matrices[i].weight.rows, begin = ranges[i], end = ranges[i + 1];
        const std::vector<float> own(got.begin() + begin * rows, got.begin() + end * rows);
        const std::vector<float> own_x(x.begin() + begin * kCols, x.begin() + end * kCols);
        EXPECT_LT(Error(matrices[i], own_x, end - begin, {}, own, false), 2e-6)
            << DTypeName(dtype) << " " << i;
        for (size_t at = 0; at < got.size(); ++at) {
          const auto token = static_cast<int64_t>(at) / rows;
          ASSERT_EQ(std::isnan(got[at]), token < begin || token >= end) << at;
        }
      }
    }
  }
}

class QuantLinearTest : public LinearTest, public testing::WithParamInterface<DType> {};

TEST_P(QuantLinearTest, EveryNumberOfTokens) {
  const Matrix m = Quantized(GetParam(), 37, 0, 512);
  for (const int64_t tokens : {1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 32, 33, 63, 64, 65, 70}) {
    ExpectRight(m, tokens, tokens % 2 != 0);
  }
}

TEST_P(QuantLinearTest, PartsOfSuperBlocks) {
  for (const auto& [begin, end] :
       {std::pair<int64_t, int64_t>{96, 416}, {256, 288}, {32, 512}, {224, 384}}) {
    for (const int64_t rows : {1, 16, 129}) {
      const Matrix m = Quantized(GetParam(), rows, begin, end);
      for (const int64_t tokens : {1, 11, 33}) ExpectRight(m, tokens, true);
    }
  }
}

// Enough columns for several blocks of threads, and steps that do not come out even.
TEST_P(QuantLinearTest, SplitColumns) {
  const Matrix m = Quantized(GetParam(), 20, 160, 9 * 512 - 32, 9);
  EXPECT_GT(LinearSplits(kPanelTilings[0], 20, m.weight.cols, kPanelStepColumns), 1);
  EXPECT_GT(LinearSplits(kPanelTilings[3], 20, m.weight.cols, kPanelStepColumns), 8);
  for (const int64_t tokens : {1, 8, 16, 17, 66}) ExpectRight(m, tokens, true);
}

TEST_P(QuantLinearTest, ManyTokensByTheLibrary) {
  ExpectRight(Quantized(GetParam(), 37, 96, 416), 130, true);
}

TEST_P(QuantLinearTest, DequantizedIsTheValueRounded) {
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 512}, {96, 416}, {256, 288}}) {
    const Matrix m = Quantized(GetParam(), 45, begin, end);
    const int64_t cols = end - begin;
    for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{0, 45}, {16, 20}, {32, 13}}) {
      const DeviceArray<uint16_t> out(rows * cols);
      LaunchDequantize({.weight = m.weight,
                        .row_begin = first,
                        .rows = rows,
                        .out = out.data(),
                        .stream = nullptr});
      const std::vector<uint16_t> got = out.ToHost();
      for (int64_t i = 0; i < rows * cols; ++i) {
        // A device may fuse the product and the min, which rounds once less.
        const double want = m.values[first * cols + i];
        ASSERT_NEAR(Bf16ToDouble(got[i]), want, std::abs(want) / 255 + 1e-7) << i;
      }
    }
  }
}

TEST_P(QuantLinearTest, TokensDoNotSeeEachOther) {
  const Matrix m = Quantized(GetParam(), 33, 32, 480);
  for (const int64_t tokens : {5, 16, 30, 70}) {
    std::vector<float> x = RandomFloats(tokens * m.weight.cols, 7);
    const std::vector<float> all = Run(x, tokens, {&m})[0];
    const int64_t kept = tokens / 2;
    for (int64_t i = 0; i < tokens * m.weight.cols; ++i) {
      if (i / m.weight.cols != kept) x[i] = -3.0f * x[i] + 1.0f;
    }
    const std::vector<float> other = Run(x, tokens, {&m})[0];
    for (int64_t r = 0; r < 33; ++r) ASSERT_EQ(all[kept * 33 + r], other[kept * 33 + r]);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantLinearTest, testing::ValuesIn(kQuantTypes),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

// Rows that do not fit the scratch memory at once.
TEST_F(LinearTest, DequantizesInChunks) {
  dequantize_bytes_ = 128 * 2 * 96;
  ExpectRight(Quantized(DType::kQ4_0, 300, 0, 96), kPanelsTokensMax + 1, true);
}

// A graph replays the products with what x holds then.
TEST_F(LinearTest, MayBeCaptured) {
  const Matrix m = Quantized(DType::kQ4K, 40, 160, 9 * 512 - 32, 9);
  const int64_t cols = m.weight.cols;
  for (const int64_t tokens : {1, 140}) {
    const std::vector<float> first = RandomFloats(tokens * cols, 3);
    const std::vector<float> second = RandomFloats(tokens * cols, 4);
    const std::vector<float> want = Run(second, tokens, {&m})[0];
    const DeviceArray<float> x(first);
    const DeviceArray<float> y(want.size());
    const int64_t bytes = LinearWorkspaceBytes(tokens, std::span(&m.weight, 1));
    const DeviceArray<std::byte> workspace(bytes);
    ASSERT_EQ(cudaMemset(workspace.data(), 0, kLinearCounterBytes), cudaSuccess);
    const LinearProduct product = {.weight = m.weight, .bias = nullptr, .y = y.data()};
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    const absl::Status status = Linear({.x = x.data(),
                                        .tokens = tokens,
                                        .products = std::span(&product, 1),
                                        .workspace = workspace.data(),
                                        .workspace_bytes = bytes,
                                        .gemm = gemm_.get(),
                                        .stream = stream});
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    ASSERT_EQ(
        cudaMemcpy(x.data(), second.data(), second.size() * sizeof(float), cudaMemcpyHostToDevice),
        cudaSuccess);
    for (int i = 0; i < 2; ++i) {
      ASSERT_EQ(cudaMemset(y.data(), 0xff, want.size() * sizeof(float)), cudaSuccess);
      ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      EXPECT_TRUE(SameBits(y.ToHost(), want)) << tokens;
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
}

class RowsLinearTest : public LinearTest, public testing::WithParamInterface<DType> {};

TEST_P(RowsLinearTest, EveryNumberOfTokens) {
  for (const auto& [rows, cols, gap] : {std::tuple<int64_t, int64_t, int64_t>{37, 256, 0},
                                        {16, 104, 8},
                                        {5, 100, 0},
                                        {33, 31, 2}}) {
    const Matrix m = Floats(GetParam(), rows, cols, gap);
    for (const int64_t tokens : {1, 2, 7, 8, 9, 16, 17, 40}) {
      ExpectRight(m, tokens, tokens % 2 != 0);
    }
  }
}

TEST_P(RowsLinearTest, SplitColumns) {
  const Matrix m = Floats(GetParam(), 20, 5000, 0);
  EXPECT_GT(LinearSplits(kRowsTilings[0], 20, 5000, kRowsStepColumns), 1);
  for (const int64_t tokens : {1, 8, 16}) ExpectRight(m, tokens, true);
}

TEST_P(RowsLinearTest, TokensDoNotSeeEachOther) {
  const Matrix m = Floats(GetParam(), 33, 136, 0);
  for (const int64_t tokens : {5, 16}) {
    std::vector<float> x = RandomFloats(tokens * 136, 7);
    const std::vector<float> all = Run(x, tokens, {&m})[0];
    for (int64_t i = 0; i < tokens * 136; ++i) {
      if (i / 136 != 3) x[i] = NAN;
    }
    const std::vector<float> other = Run(x, tokens, {&m})[0];
    for (int64_t r = 0; r < 33; ++r) ASSERT_EQ(all[3 * 33 + r], other[3 * 33 + r]);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, RowsLinearTest,
                         testing::Values(DType::kBF16, DType::kF16, DType::kF32),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

TEST_F(LinearTest, HugeActivationsAreCutToFloat16) {
  const Matrix m = Floats(DType::kF16, 3, 64, 0);
  std::vector<float> x(64, 0.0f);
  x[5] = 1e6f;
  x[40] = -3e38f;
  const std::vector<float> y = Run(x, 1, {&m})[0];
  for (int64_t r = 0; r < 3; ++r) {
    const double want = 65504.0 * (double{m.values[r * 64 + 5]} - m.values[r * 64 + 40]);
    EXPECT_NEAR(y[r], want, 1e-2);
  }
}

// More than one launch takes, of several types and sizes: each as if alone.
TEST_F(LinearTest, SeveralProductsOfOneX) {
  const Matrix matrices[] = {
      Quantized(DType::kQ4K, 40, 64, 480),  Quantized(DType::kQ4K, 7, 0, 416),
      Quantized(DType::kQ4K, 130, 64, 480), Quantized(DType::kQ4K, 16, 96, 512),
      Quantized(DType::kQ4K, 17, 64, 480),  Floats(DType::kBF16, 21, 416, 0),
      Floats(DType::kF32, 9, 416, 0),       Floats(DType::kF16, 50, 416, 8),
      Quantized(DType::kInt8, 33, 0, 416)};
  std::vector<const Matrix*> all;
  for (const Matrix& m : matrices) all.push_back(&m);
  for (const int64_t tokens : {1, 12, 140}) {
    const std::vector<float> x = RandomFloats(tokens * 416, 3);
    const auto together = Run(x, tokens, all);
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_TRUE(SameBits(together[i], Run(x, tokens, {all[i]})[0])) << tokens << " " << i;
    }
  }
}

TEST(GemmTest, Fp8WithScales) {
  // e4m3: 0x38 is 1, 0x40 is 2, 0xb0 is -0.5, 0x01 is 2^-9.
  const uint8_t codes[] = {0x38, 0x40, 0xb0, 0x01};
  const double values[] = {1, 2, -0.5, std::ldexp(1.0, -9)};
  const int64_t tokens = 16;
  const int64_t rows = 32;
  const int64_t cols = 64;
  std::vector<uint8_t> x;
  std::vector<uint8_t> weight;
  for (int64_t i = 0; i < tokens * cols; ++i) x.push_back(codes[i * 7 / 3 % 4]);
  for (int64_t i = 0; i < rows * cols; ++i) weight.push_back(codes[i * 5 / 2 % 4]);
  const std::vector<float> x_scales = RandomFloats(tokens, 1);
  const std::vector<float> weight_scales = RandomFloats(rows, 2);
  const DeviceArray<uint8_t> device_x(x);
  const DeviceArray<uint8_t> device_weight(weight);
  const DeviceArray<float> device_x_scales(x_scales);
  const DeviceArray<float> device_weight_scales(weight_scales);
  const DeviceArray<std::byte> workspace(kGemmWorkspaceBytes);
  const auto gemm = *Gemm::Create();
  for (const Fp8Scales scales : {Fp8Scales::kTensor, Fp8Scales::kRows}) {
    const DeviceArray<float> y(tokens * rows);
    const absl::Status status = gemm->Run({.type = GemmType::kFp8E4M3,
                                           .tokens = tokens,
                                           .rows = rows,
                                           .cols = cols,
                                           .x = device_x.data(),
                                           .x_stride = cols,
                                           .weight = device_weight.data(),
                                           .weight_stride = cols,
                                           .y = y.data(),
                                           .y_stride = rows,
                                           .scales = scales,
                                           .x_scales = device_x_scales.data(),
                                           .weight_scales = device_weight_scales.data(),
                                           .workspace = workspace.data()});
    if (absl::IsUnimplemented(status)) continue;  // this device has none
    ASSERT_TRUE(status.ok()) << status;
    const std::vector<float> got = y.ToHost();
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t n = 0; n < rows; ++n) {
        double sum = 0;
        double size = 0;
        for (int64_t k = 0; k < cols; ++k) {
          const double term =
              values[(t * cols + k) * 7 / 3 % 4] * values[(n * cols + k) * 5 / 2 % 4];
          sum += term;
          size += std::abs(term);
        }
        const bool by_row = scales == Fp8Scales::kRows;
        const double scale = double{x_scales[by_row ? t : 0]} * weight_scales[by_row ? n : 0];
        EXPECT_NEAR(got[t * rows + n], sum * scale, 3e-4 * size * std::abs(scale));
      }
    }
  }
}

TEST(GemmTest, RefusesShapesThatMakeNoSense) {
  const auto gemm = *Gemm::Create();
  GemmArgs args = {.tokens = 4, .rows = 8, .cols = 30, .x_stride = 30, .weight_stride = 29};
  args.y_stride = 8;
  EXPECT_TRUE(absl::IsInvalidArgument(gemm->Run(args)));
  args.weight_stride = 30;
  args.type = GemmType::kFp8E4M3;
  const absl::Status status = gemm->Run(args);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_NE(status.message().find("multiples of 16"), std::string::npos) << status;
}

}  // namespace
}  // namespace trireme::cuda
