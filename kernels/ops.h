#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/kv_layer.h"
#include "kernels/memory.h"
#include "kernels/step_batch.h"
#include "kernels/tensor.h"

namespace trireme {

// What attention needs to know beside its operands.
struct AttentionShape {
  int64_t heads = 0;        // query heads; they share the cache's KV heads in equal groups
  float scale = 1.0f;       // of q . k
  int64_t window = 0;       // positions a token sees, its own included; 0: all up to it
  bool local_rope = false;  // positions turn by the batch's local_rope
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

  virtual std::string_view name() const = 0;  // for example "cpu avx2", "cuda 1 NVIDIA H100"
  // What it is one of: the name without which of the host's it is.
  virtual std::string_view model() const = 0;
  virtual int threads() const = 0;
  virtual Memory& memory() = 0;  // lives as long as the Ops
  // Whether matrices of this type lie in panels (Weight::packed); the others are row-major.
  virtual bool Packs(DType dtype) const = 0;
  // Whether Linear takes weights of kFp8, whose rows and columns are multiples of 16: x is rounded
  // to E4M3 with a scale for each token. Elsewhere they are widened to bfloat16 when they are read.
  virtual bool MultipliesFp8() const = 0;

  // Says which step the operations that take a batch are for from now on: a device gets all it has
  // to know of the step at once. The batch must not change until the next BeginStep.
  virtual absl::Status BeginStep(const StepBatch& batch) = 0;
  // To how many tokens a step of one token a sequence is to be padded, so that Run finds it
  // recorded more often; `tokens` if it need not be.
  virtual int64_t PaddedTokens(int64_t tokens) const = 0;
  // Whether ExpertLinear waits for a device, in a step of so many tokens, `query_max` of one
  // sequence at most.
  virtual bool ExpertLinearWaits(int64_t tokens, int64_t query_max) const = 0;
  // Does `work`: operations for this step that read nothing else that changes from step to step,
  // and do not need the host. A device may record it, and later repeat the record in its place
  // where a step has the same shape.
  virtual absl::Status Run(const std::function<absl::Status()>& work) = 0;
  // The batch's wanted tokens, for GatherRows.
  virtual std::span<const int32_t> Wanted(const StepBatch& batch) const = 0;

  // out[t, :] = table[id - first_id, :] * scale, or zeros where the table does not hold the token's
  // id. A CPU's steps know all ids.
  virtual void Embedding(const StepBatch& batch, const Weight& table, int64_t first_id, float scale,
                         std::span<float> out) = 0;

  // hidden[t, :] += delta[t, :] (+ bias; none if empty).
  virtual void AddResidual(std::span<float> hidden, std::span<const float> delta,
                           std::span<const float> bias) = 0;

  // AddResidual, unless delta is empty, then of the new hidden
  //   out[t, :] = hidden[t, :] / sqrt(mean(hidden[t, :]^2) + eps) * weight.
  // `out` may be `hidden`. Row length is the weight's. Zhang and Sennrich 2019.
  struct Normed {
    std::span<float> hidden;
    std::span<const float> delta, bias;
    std::span<const float> weight;
    float eps = 0;
    std::span<float> out;
  };
  // gate[i] = activation(gate[i]) * up[i]: silu (Shazeer 2020), or gelu by its tanh approximation
  // (Hendrycks and Gimpel 2016).
  struct Gated {
    enum class Activation { kSilu, kGeluTanh };
    Activation activation = Activation::kSilu;
    std::span<float> gate, up;
  };
  // Rows that are there, or are made on the way to what reads them.
  using Input = std::variant<std::span<const float>, Normed, Gated>;

  // Makes the rows, and says where they are: `out` or `gate`.
  virtual std::span<const float> Materialize(const Input& x) = 0;

  // One product of several with the same x: y[t, n] = sum over k of x[t, k] * weight[n, k]
  // (+ bias[n]; no bias if empty).
  struct Product {
    const Weight& weight;
    std::span<const float> bias;
    std::span<float> y;
  };

  // All products at once, so that threads meet once for all. The columns are summed as `groups`
  // equal parts, which are added in a binary tree. Quantised weights: x is rounded to eight bits
  // for each 32 columns (docs/decisions/0008). Rows that are made may go to the products alone:
  // what `out` or `gate` holds afterwards is not said.
  virtual void Linear(const Input& x, std::span<const Product> products, int groups) = 0;
  void Linear(const Input& x, const Weight& weight, std::span<const float> bias, int groups,
              std::span<float> y) {
    const Product product{.weight = weight, .bias = bias, .y = y};
    Linear(x, std::span(&product, 1), groups);
  }

  // Rotates pairs (i, i + head_dim / 2) of each head of q and k by the token's angles, in place (Su
  // et al. 2021); then writes each token's key and value to its place in the cache, in the cache's
  // type. q [tokens, heads, head_dim]; k and v [tokens, num_kv_heads, head_dim].
  virtual void RopeStoreKv(std::span<float> q, std::span<float> k, std::span<const float> v,
                           const StepBatch& batch, const AttentionShape& shape,
                           const KvLayer& cache) = 0;

  // out[t, h, :] = softmax(scale * q[t, h, :] . K) V over the positions that token t sees. Online
  // softmax over blocks in order (Dao et al. 2022), paged (Kwon et al. 2023). Arithmetic is float32
  // whatever the cache's type; an int8 scale multiplies scores and softmax weights.
  virtual void Attention(std::span<const float> q, const StepBatch& batch, const KvLayer& cache,
                         const AttentionShape& shape, std::span<float> out) = 0;

  // The k largest of each row's n scores, largest first, equal ones by index: their indices and the
  // softmax over them alone. That is a softmax over the whole row made to sum to 1 again over the
  // chosen. scores [tokens, n]; ids and weights [tokens, k], 1 <= k <= n; a NaN counts as lowest.
  virtual void TopKSoftmax(std::span<const float> scores, int64_t n, int64_t k,
                           std::span<int32_t> ids, std::span<float> weights) = 0;

  // Sorts choices of experts by expert, those of one expert by token: expert e's are the rows
  // [first_row[e], first_row[e + 1]), a row's token is token_of_row, a choice's row row_of. ids and
  // row_of [tokens, k], token_of_row [tokens * k], first_row [experts + 1]; ids are below experts.
  // A device may leave out padding: its row_of, and token_of_row behind the last row, are then -1,
  // which GatherRows and CombineRows take for zeros.
  virtual void RouteExperts(const StepBatch& batch, std::span<const int32_t> ids,
                            std::span<int32_t> first_row, std::span<int32_t> token_of_row,
                            std::span<int32_t> row_of) = 0;
  // Linear of each expert's rows of x, as RouteExperts has sorted them for this batch: `products`
  // are as many of each expert, expert after expert, their y as long as x.
  virtual void ExpertLinear(std::span<const float> x, std::span<const int32_t> first_row,
                            std::span<const Product> products, int groups) = 0;

  // out[i, :] = x[rows[i], :]; x has rows of n.
  virtual void GatherRows(std::span<const float> x, int64_t n, std::span<const int32_t> rows,
                          std::span<float> out) = 0;
  // out[t, :] = sum over j of weights[t, j] * x[rows[t, j], :], j from 0 to k - 1 in order.
  virtual void CombineRows(std::span<const float> x, int64_t n, std::span<const int32_t> rows,
                           std::span<const float> weights, int64_t k, std::span<float> out) = 0;
  // Puts slices of columns beside each other: out[t, s * width + c] = slices[s, t, c] where that is
  // below `columns`, the length of out's rows. Columns that no slice has stay as they are.
  virtual void MergeColumns(std::span<const float> slices, int64_t tokens, int64_t width,
                            int64_t columns, std::span<float> out) = 0;

  // Calls f(0) ... f(n - 1) on the host, each on one of the threads, and returns when all are done.
  // f must not throw.
  virtual void ForEach(int64_t n, const std::function<void(int64_t)>& f) = 0;
};

// Calls linear(x, products) for each expert that has rows, with those rows and its products: what
// ExpertLinear is where the host can read first_row.
template <class F>
void ForExperts(std::span<const float> x, std::span<const int32_t> first_row,
                std::span<const Ops::Product> products, const F& linear) {
  const size_t each = products.size() / (first_row.size() - 1);
  for (size_t e = 0; e + 1 < first_row.size(); ++e) {
    const auto begin = static_cast<size_t>(first_row[e]);
    const size_t rows = static_cast<size_t>(first_row[e + 1]) - begin;
    if (rows == 0) continue;
    std::vector<Ops::Product> own;
    for (const Ops::Product& product : products.subspan(e * each, each)) {
      const auto out = static_cast<size_t>(product.weight.rows);
      own.push_back({.weight = product.weight,
                     .bias = product.bias,
                     .y = product.y.subspan(begin * out, rows * out)});
    }
    const auto cols = static_cast<size_t>(own.front().weight.cols);
    linear(x.subspan(begin * cols, rows * cols), std::span<const Ops::Product>(own));
  }
}

// The CPU's instruction sets we have variants for, best first among those this machine runs.
std::vector<std::string> CpuVariants();

// Operations on `threads` CPU threads (the caller's is one of them). `variant` is one of
// CpuVariants(), or empty for the best. Thread i stays on cpus[i], if there are any; the caller's
// from its first operation on.
absl::StatusOr<std::unique_ptr<Ops>> MakeCpuOps(int threads, std::string_view variant = {},
                                                std::span<const int> cpus = {});

}  // namespace trireme
