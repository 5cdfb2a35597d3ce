#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/kv_layer.h"
#include "kernels/memory.h"
#include "kernels/tensor.h"

namespace trireme {

// Where one token of a step stands: its position in its sequence, and that sequence's block table
// (page numbers; it covers at least position + 1 tokens and outlives the call).
struct TokenPlace {
  int64_t position = 0;
  std::span<const int32_t> block_table;
};

// What attention needs to know beside its operands.
struct AttentionShape {
  int64_t heads = 0;   // query heads; they share the cache's KV heads in equal groups
  float scale = 1.0f;  // of q . k
  int64_t window = 0;  // positions a token sees, its own included; 0: all up to it
};

// The compute interface: what a transformer step needs, on one rank, without communication.
//
// Operands lie in memory(); results are there when memory() says so, in order with its copies.
// Activations are float32, row-major, one row per token of the step. Every operation treats each
// row by itself and in one fixed order of arithmetic, so a row's bits depend neither on the other
// rows, nor on the number of threads, nor (on CPU) on the instruction set (docs/decisions/0001).
// Not thread safe: one caller at a time. Shapes are checked with CHECK: they are ours, not input.
class Ops {
 public:
  virtual ~Ops() = default;

  virtual std::string_view name() const = 0;  // for example "cpu avx2"
  virtual int threads() const = 0;
  virtual Memory& memory() = 0;  // lives as long as the Ops
  // Whether matrices of this type lie in panels (Weight::packed); the others are row-major.
  virtual bool Packs(DType dtype) const = 0;

  // out[t, :] = table[ids[t] - first_id, :] * scale, or zeros where the table does not hold ids[t].
  virtual void Embedding(std::span<const int32_t> ids, const Weight& table, int64_t first_id,
                         float scale, std::span<float> out) = 0;

  // out[t, :] = x[t, :] / sqrt(mean(x[t, :]^2) + eps) * weight. `out` may be `x`. Row length is the
  // weight's. Zhang and Sennrich 2019.
  virtual void RmsNorm(std::span<const float> x, std::span<const float> weight, float eps,
                       std::span<float> out) = 0;

  // One product of several with the same x: y[t, n] = sum over k of x[t, k] * weight[n, k]
  // (+ bias[n]; no bias if empty).
  struct Product {
    const Weight& weight;
    std::span<const float> bias;
    std::span<float> y;
  };

  // All products at once, so that threads meet once for all. The columns are summed as `groups`
  // equal parts, which are added in a binary tree. Quantised weights: x is rounded to eight bits
  // for each 32 columns (docs/decisions/0008).
  virtual void Linear(std::span<const float> x, std::span<const Product> products, int groups) = 0;
  void Linear(std::span<const float> x, const Weight& weight, std::span<const float> bias,
              int groups, std::span<float> y) {
    const Product product{.weight = weight, .bias = bias, .y = y};
    Linear(x, std::span(&product, 1), groups);
  }

  // Rotates pairs (i, i + head_dim / 2) of each head by the token's angles; in place.
  // x [tokens, heads, head_dim]; cos and sin [tokens, head_dim / 2]. Su et al. 2021.
  virtual void Rope(std::span<float> x, int64_t heads, int64_t head_dim, std::span<const float> cos,
                    std::span<const float> sin) = 0;

  // Writes each token's key and value, [tokens, num_kv_heads, head_dim], to its place in the cache,
  // in the cache's type.
  virtual void StoreKv(std::span<const float> k, std::span<const float> v,
                       std::span<const TokenPlace> places, const KvLayer& cache) = 0;

  // out[t, h, :] = softmax(scale * q[t, h, :] . K) V over the positions that token t sees. Online
  // softmax over blocks in order (Dao et al. 2022), paged (Kwon et al. 2023). Arithmetic is float32
  // whatever the cache's type; an int8 scale multiplies scores and softmax weights.
  virtual void Attention(std::span<const float> q, std::span<const TokenPlace> places,
                         const KvLayer& cache, const AttentionShape& shape,
                         std::span<float> out) = 0;

  // gate[i] = silu(gate[i]) * up[i]. Shazeer 2020.
  virtual void SiluMul(std::span<float> gate, std::span<const float> up) = 0;
  // gate[i] = gelu(gate[i]) * up[i], gelu by its tanh approximation. Hendrycks and Gimpel 2016.
  virtual void GeluTanhMul(std::span<float> gate, std::span<const float> up) = 0;

  // The k largest of each row's n scores, largest first, equal ones by index: their indices and the
  // softmax over them alone. That is a softmax over the whole row made to sum to 1 again over the
  // chosen. scores [tokens, n]; ids and weights [tokens, k], 1 <= k <= n; a NaN counts as lowest.
  virtual void TopKSoftmax(std::span<const float> scores, int64_t n, int64_t k,
                           std::span<int32_t> ids, std::span<float> weights) = 0;

  // hidden[t, :] += delta[t, :] (+ bias; none if empty).
  virtual void AddResidual(std::span<float> hidden, std::span<const float> delta,
                           std::span<const float> bias) = 0;

  // Calls f(0) ... f(n - 1), each on one of the threads, and returns when all are done. f must not
  // throw.
  virtual void ForEach(int64_t n, const std::function<void(int64_t)>& f) = 0;
};

// The CPU's instruction sets we have variants for, best first among those this machine runs.
std::vector<std::string> CpuVariants();

// Operations on `threads` CPU threads (the caller's is one of them). `variant` is one of
// CpuVariants(), or empty for the best. Thread i stays on cpus[i], if there are any; the caller's
// from its first operation on.
absl::StatusOr<std::unique_ptr<Ops>> MakeCpuOps(int threads, std::string_view variant = {},
                                                std::span<const int> cpus = {});

}  // namespace trireme
