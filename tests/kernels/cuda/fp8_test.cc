// Products of FP8 weights on the device: the conversion against the definition of E4M3, and whole
// products against double precision on operands that a search has rounded.

#include "kernels/cuda/fp8.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/runtime.h"
#include "kernels/quant/fp8.h"
#include "tests/kernels/cuda/device_array.h"
#include "tests/kernels/reference.h"

namespace trireme::cuda {
namespace {

// By the definition of the format.
double E4m3(int bits) {
  const double sign = (bits & 0x80) != 0 ? -1.0 : 1.0;
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return NAN;
  if (exponent == 0) return sign * std::ldexp(mantissa, -9);
  return sign * std::ldexp(8 + mantissa, exponent - 10);
}

// The nearest value that is no NaN; of two, the one with an even last bit.
double NearestE4m3(double x) {
  int best = 0;
  for (int bits = 1; bits < 0x7f; ++bits) {
    const double better = std::abs(std::abs(x) - E4m3(best)) - std::abs(std::abs(x) - E4m3(bits));
    if (better > 0 || (better == 0 && bits % 2 == 0)) best = bits;
  }
  return std::copysign(E4m3(best), x);
}

TEST(Fp8, ConvertsAsTheFormatIsDefined) {
  for (int bits = 0; bits < 256; ++bits) {
    const float value = quant::FromE4m3(static_cast<uint8_t>(bits));
    if (std::isnan(E4m3(bits))) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_EQ(quant::ToE4m3(value) & 0x7f, 0x7f) << bits;
    } else {
      EXPECT_EQ(value, E4m3(bits)) << bits;
      EXPECT_EQ(quant::ToE4m3(value), bits);
    }
  }
  for (int bits = 0; bits < 0x7e; ++bits) {  // halfway, and on both sides of it
    const auto half = static_cast<float>((E4m3(bits) + E4m3(bits + 1)) / 2);
    for (const float x : {half, std::nextafter(half, 0.0f), std::nextafter(half, 1e9f), -half}) {
      EXPECT_EQ(quant::FromE4m3(quant::ToE4m3(x)), NearestE4m3(x)) << x;
    }
  }
  for (const float x : {449.0f, 1e30f, INFINITY}) {
    EXPECT_EQ(quant::FromE4m3(quant::ToE4m3(x)), 448.0f);
    EXPECT_EQ(quant::FromE4m3(quant::ToE4m3(-x)), -448.0f);
  }
}

// A library without scales for each row, as on compute capability 8.9.
class ScalesOfTensorsOnly final : public Gemm {
 public:
  explicit ScalesOfTensorsOnly(Gemm& gemm) : gemm_(gemm) {}
  bool has_fp8() const override { return true; }
  bool has_fp8_row_scales() const override { return false; }
  absl::Status Run(const GemmArgs& args) override {
    EXPECT_NE(args.scales, Fp8Scales::kRows);
    return gemm_.Run(args);
  }

 private:
  Gemm& gemm_;
};

// Weights on the device, and their values.
struct Fp8Matrix {
  Fp8Matrix(int64_t rows, int64_t cols, uint32_t seed)
      : quants(RandomFloats(static_cast<size_t>(rows * cols), seed, 2.0f)),
        scales(RandomFloats(static_cast<size_t>(rows), seed + 1)) {
    std::vector<std::byte> bytes;
    for (float& quant : quants) {
      const uint8_t bits = quant::ToE4m3(quant);
      quant = static_cast<float>(E4m3(bits));
      bytes.push_back(std::byte{bits});
    }
    const auto tail = std::as_bytes(std::span(scales));
    bytes.insert(bytes.end(), tail.begin(), tail.end());
    memory = std::make_unique<DeviceArray<std::byte>>(bytes);
    weight = {.data = memory->data(),
              .dtype = DType::kFp8,
              .rows = rows,
              .cols = cols,
              .row_stride = cols};
  }

  std::vector<float> quants;
  std::vector<float> scales;
  std::unique_ptr<DeviceArray<std::byte>> memory;
  Weight weight;
};

// Twice the products: as they are, and replayed with another x.
void ExpectRight(Gemm& gemm, int64_t tokens, const std::vector<const Fp8Matrix*>& matrices,
                 bool with_bias) {
  const int64_t cols = matrices[0]->weight.cols;
  std::vector<LinearProduct> products;
  std::vector<Weight> weights;
  std::vector<std::unique_ptr<DeviceArray<float>>> y;
  std::vector<std::unique_ptr<DeviceArray<float>>> biases;
  const std::vector<float> bias = RandomFloats(512, 3);
  for (const Fp8Matrix* m : matrices) {
    y.push_back(std::make_unique<DeviceArray<float>>(tokens * m->weight.rows));
    biases.push_back(std::make_unique<DeviceArray<float>>(bias));
    products.push_back({.weight = m->weight,
                        .bias = with_bias ? biases.back()->data() : nullptr,
                        .y = y.back()->data()});
    weights.push_back(m->weight);
  }
  const DeviceArray<float> device_x(tokens * cols);
  const int64_t bytes = LinearWorkspaceBytes(tokens, weights);
  const DeviceArray<std::byte> workspace(std::vector<std::byte>(static_cast<size_t>(bytes)));
  const auto stream = Stream::Create();
  ASSERT_TRUE(stream.ok());
  const auto linear = [&] {
    return Linear({.x = device_x.data(),
                   .tokens = tokens,
                   .products = products,
                   .workspace = workspace.data(),
                   .workspace_bytes = bytes,
                   .gemm = &gemm,
                   .stream = stream->get()});
  };
  const absl::Status first = linear();
  ASSERT_TRUE(first.ok()) << first;
  const auto graph = Graph::Capture(*stream, linear);
  ASSERT_TRUE(graph.ok()) << graph.status();
  std::vector<float> x = RandomFloats(static_cast<size_t>(tokens * cols), 7);
  std::fill(x.begin(), x.begin() + cols, 0.0f);  // a token of zeros
  if (tokens > 1) x[static_cast<size_t>(cols)] = 1e4f;
  ASSERT_EQ(cudaMemcpy(device_x.data(), x.data(), x.size() * sizeof(float), cudaMemcpyHostToDevice),
            cudaSuccess);
  ASSERT_TRUE(graph->Launch(*stream).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  for (size_t i = 0; i < matrices.size(); ++i) {
    const Fp8Matrix& m = *matrices[i];
    const int64_t rows = m.weight.rows;
    const std::vector<float> got = y[i]->ToHost();
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = x.data() + t * cols;
      float largest = 0;
      for (int64_t k = 0; k < cols; ++k) largest = std::max(largest, std::abs(row[k]));
      const float scale = largest == 0 ? 1.0f : largest / 448.0f;
      for (int64_t n = 0; n < rows; ++n) {
        double sum = 0;
        double size = 0;
        for (int64_t k = 0; k < cols; ++k) {
          const double term = NearestE4m3(row[k] / scale) * m.quants[n * cols + k];
          sum += term;
          size += std::abs(term);
        }
        const double by = double{scale} * m.scales[n];
        const double want = sum * by + (with_bias ? bias[n] : 0.0f);
        // Matrix units keep fewer bits of an fp8 product's sum than a float has.
        EXPECT_NEAR(got[t * rows + n], want, 3e-4 * size * std::abs(by) + 1e-6) << t << " " << n;
      }
    }
  }
}

TEST(Fp8, ProductsOfAnyNumberOfTokens) {
  const auto gemm = *Gemm::Create();
  if (!gemm->has_fp8()) GTEST_SKIP() << "this device multiplies no fp8";
  ScalesOfTensorsOnly tensors_only(*gemm);
  const Fp8Matrix a(48, 64, 11);
  const Fp8Matrix b(16, 64, 21);
  for (const int64_t tokens : {1, 2, 16, 33}) {
    ExpectRight(*gemm, tokens, {&a, &b}, tokens % 2 == 0);
    ExpectRight(tensors_only, tokens, {&a, &b}, tokens % 2 != 0);
  }
}

// More columns than the threads of a block take at once, and more rows than a block finishes.
TEST(Fp8, LongRows) {
  const auto gemm = *Gemm::Create();
  if (!gemm->has_fp8()) GTEST_SKIP() << "this device multiplies no fp8";
  ScalesOfTensorsOnly tensors_only(*gemm);
  const Fp8Matrix m(272, 1040, 5);
  ExpectRight(*gemm, 2, {&m}, true);
  ExpectRight(tensors_only, 2, {&m}, true);
}

// A NaN among a token's activations is one in all that becomes of them, and in nothing else.
TEST(Fp8, NansStay) {
  std::vector<float> x = RandomFloats(3 * 32, 1);
  x[40] = NAN;
  const DeviceArray<float> device_x(x);
  const DeviceArray<uint8_t> out(3 * 32);
  const DeviceArray<float> scales(3);
  LaunchQuantizeFp8({.x = device_x.data(),
                     .tokens = 3,
                     .cols = 32,
                     .out = out.data(),
                     .scales = scales.data(),
                     .stream = nullptr});
  const std::vector<float> got = scales.ToHost();
  EXPECT_FALSE(std::isnan(got[0]));
  EXPECT_TRUE(std::isnan(got[1]));
  EXPECT_FALSE(std::isnan(got[2]));
}

}  // namespace
}  // namespace trireme::cuda
