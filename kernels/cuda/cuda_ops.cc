#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cuda/activation.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_memory.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/graph_buckets.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/plan_upload.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/runtime.h"

namespace trireme::cuda {
namespace {

const float* DataOrNull(std::span<const float> values) {
  return values.empty() ? nullptr : values.data();
}

int64_t Rows(size_t size, int64_t row) {
  CHECK(row > 0 && static_cast<int64_t>(size) % row == 0);
  return static_cast<int64_t>(size) / row;
}

class CudaOps final : public Ops {
 public:
  static absl::StatusOr<std::unique_ptr<Ops>> Create(int device) {
    std::unique_ptr<CudaOps> ops(new CudaOps);
    ASSIGN_OR_RETURN(ops->memory_, CudaMemory::Create(device));
    ops->memory_->OnFree([ops = ops.get()] { ops->records_.clear(); });
    cudaDeviceProp properties{};
    RETURN_IF_ERROR(
        ToStatus(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
    ops->name_ = absl::StrCat("cuda ", device, " ", properties.name);
    ops->model_ = absl::StrCat("cuda ", properties.name);
    ASSIGN_OR_RETURN(ops->gemm_, Gemm::Create());
    for (Upload& upload : ops->uploads_) {
      ASSIGN_OR_RETURN(upload.sent, Event::Create());
    }
    return ops;
  }

  std::string_view name() const override { return name_; }
  std::string_view model() const override { return model_; }
  int threads() const override { return 1; }
  Memory& memory() override { return *memory_; }
  bool Packs(DType dtype) const override { return IsQuantized(dtype); }
  bool MultipliesFp8() const override { return gemm_->has_fp8(); }

  // The step's arrays go to one place on the device, so that graphs find them, from two in turn on
  // the host, so that the next step can be written while this one is on its way.
  absl::Status BeginStep(const StepBatch& batch) override {
    RETURN_IF_ERROR(memory_->error());
    batch_ = &batch;
    if (batch.tokens() == 0) return absl::OkStatus();
    shape_ = ShapeOf(batch);
    layout_ = PlanLayout(shape_);
    ASSIGN_OR_RETURN(plan_, Grow(plan_memory_, static_cast<int64_t>(layout_.bytes)));
    turn_ = 1 - turn_;
    Upload& upload = uploads_[turn_];
    RETURN_IF_ERROR(memory_->Await(upload.sent));
    const auto bytes = static_cast<int64_t>(layout_.bytes);
    if (upload.memory.bytes() < bytes) {
      ASSIGN_OR_RETURN(upload.memory, PinnedMemory::Allocate(2 * bytes, {"step plans"}));
    }
    PackPlan(batch, shape_, layout_, {upload.memory.data(), layout_.bytes});
    RETURN_IF_ERROR(memory_->stream().Copy(plan_, upload.memory.data(), bytes));
    return upload.sent.Record(stream());
  }

  int64_t PaddedTokens(int64_t tokens) const override { return GraphTokens(tokens); }
  bool ExpertLinearWaits(int64_t tokens, int64_t query_max) const override {
    return !IsRecorded(tokens, query_max);
  }

  // The first step of a shape runs as it is, which takes what memory it needs and lets libraries
  // choose their kernels; the second is recorded.
  absl::Status Run(const std::function<absl::Status()>& work) override {
    if (!Repeats()) return work();
    const Key key = {shape_.tokens, shape_.blocks, shape_.wanted};
    const auto [record, is_new] = records_.try_emplace(key);
    if (is_new) return work();
    if (!record->second) {
      absl::StatusOr<Graph> captured = Graph::Capture(memory_->stream(), work);
      RETURN_IF_ERROR(captured.status());
      // What was allocated meanwhile dropped all records, this one too.
      const auto still = records_.find(key);
      CHECK(still != records_.end());
      still->second.emplace(*std::move(captured));
    }
    RETURN_IF_ERROR(memory_->error());
    return record->second->Launch(memory_->stream());
  }

  std::span<const int32_t> Wanted(const StepBatch& batch) const override {
    CHECK(&batch == batch_);
    return {At<int32_t>(layout_.wanted), batch.wanted.size()};
  }

  void Embedding(const StepBatch& batch, const Weight& table, int64_t first_id, float scale,
                 std::span<float> out) override {
    CheckStep(batch, out.size(), table.cols);
    cuda::Embedding({.ids = At<int32_t>(layout_.ids),
                     .sampled = batch.sampled.data(),
                     .table = table,
                     .first_id = first_id,
                     .scale = scale,
                     .out = out.data(),
                     .tokens = batch.tokens(),
                     .stream = stream()});
  }

  void AddResidual(std::span<float> hidden, std::span<const float> delta,
                   std::span<const float> bias) override {
    CHECK(hidden.size() == delta.size());
    const auto size = static_cast<int64_t>(hidden.size());
    const int64_t cols = bias.empty() ? size / shape_.tokens : static_cast<int64_t>(bias.size());
    cuda::AddResidual({.hidden = hidden.data(),
                       .delta = delta.data(),
                       .bias = DataOrNull(bias),
                       .rows = Rows(hidden.size(), cols),
                       .cols = cols,
                       .stream = stream()});
  }

  std::span<const float> Materialize(const Input& input) override {
    if (const auto* there = std::get_if<std::span<const float>>(&input)) return *there;
    if (const auto* gated = std::get_if<Gated>(&input)) return Activate(*gated);
    const auto& normed = std::get<Normed>(input);
    CHECK(normed.out.size() == normed.hidden.size() &&
          (normed.delta.empty() || normed.delta.size() == normed.hidden.size()) &&
          (normed.bias.empty() || normed.bias.size() == normed.weight.size()));
    const auto cols = static_cast<int64_t>(normed.weight.size());
    cuda::RmsNorm({.hidden = normed.hidden.data(),
                   .delta = DataOrNull(normed.delta),
                   .bias = DataOrNull(normed.bias),
                   .weight = normed.weight.data(),
                   .eps = normed.eps,
                   .out = normed.out.data(),
                   .rows = Rows(normed.hidden.size(), cols),
                   .cols = cols,
                   .stream = stream()});
    return normed.out;
  }

  void Linear(const Input& input, std::span<const Product> products, int) override {
    const std::span<const float> x = Materialize(input);
    if (!x.empty()) Multiply(x, products, {});
  }

  // With first_row: as many products of each expert, of its rows of x, which only the device knows.
  void Multiply(std::span<const float> x, std::span<const Product> products,
                std::span<const int32_t> first_row) {
    const size_t each = first_row.empty() ? 0 : products.size() / (first_row.size() - 1);
    std::vector<LinearProduct> parts;
    std::vector<Weight> weights;
    for (const Product& product : products) {
      weights.push_back(product.weight);
      parts.push_back(
          {.weight = product.weight, .bias = DataOrNull(product.bias), .y = product.y.data()});
      if (each > 0) parts.back().token_range = first_row.data() + (parts.size() - 1) / each;
    }
    const int64_t tokens = Rows(x.size(), weights.front().cols);
    const int64_t bytes = LinearWorkspaceBytes(tokens, weights);
    const absl::StatusOr<std::byte*> workspace = Grow(linear_memory_, bytes);
    if (!workspace.ok()) return memory_->Note(workspace.status());
    memory_->Note(cuda::Linear({.x = x.data(),
                                .tokens = tokens,
                                .products = parts,
                                .range_tokens = each > 0 ? batch_->tokens() : 0,
                                .workspace = *workspace,
                                .workspace_bytes = bytes,
                                .gemm = gemm_.get(),
                                .stream = stream()}));
  }

  void RopeStoreKv(std::span<float> q, std::span<float> k, std::span<const float> v,
                   const StepBatch& batch, const AttentionShape& shape,
                   const KvLayer& cache) override {
    CheckStep(batch, q.size(), shape.heads * cache.head_dim);
    CheckStep(batch, k.size(), cache.num_kv_heads * cache.head_dim);
    CHECK(shape_.angles == batch.tokens() * (cache.head_dim / 2) && k.size() == v.size() &&
          (shape_.local_angles || !shape.local_rope));
    RopeAndStoreKv({.q = q.data(),
                    .heads = shape.heads,
                    .k = k.data(),
                    .v = v.data(),
                    .head_dim = cache.head_dim,
                    .cos = At<float>(shape.local_rope ? layout_.local_cos : layout_.cos),
                    .sin = At<float>(shape.local_rope ? layout_.local_sin : layout_.sin),
                    .positions = At<int32_t>(layout_.positions),
                    .sequence_of_token = At<int32_t>(layout_.sequence_of_token),
                    .block_tables = At<int32_t>(layout_.block_tables),
                    .blocks_max = shape_.blocks,
                    .cache = cache,
                    .tokens = batch.tokens(),
                    .stream = stream()});
  }

  void Attention(std::span<const float> q, const StepBatch& batch, const KvLayer& cache,
                 const AttentionShape& shape, std::span<float> out) override {
    CheckStep(batch, q.size(), shape.heads * cache.head_dim);
    CHECK(out.size() == q.size());
    const absl::Status supported = CheckAttention(cache, shape.heads);
    if (!supported.ok()) return memory_->Note(supported);
    AttentionArgs args = {
        .q = q.data(),
        .out = out.data(),
        .cache = cache,
        .heads = static_cast<int>(shape.heads),
        .scale = shape.scale,
        .window = static_cast<int>(shape.window),
        .step = {.positions = At<int32_t>(layout_.positions),
                 .sequence_of_token = At<int32_t>(layout_.sequence_of_token),
                 .query_start = At<int32_t>(layout_.query_start),
                 .block_tables = At<int32_t>(layout_.block_tables),
                 .tokens = static_cast<int>(shape_.tokens),
                 .sequences = static_cast<int>(shape_.sequences),
                 .blocks_max = static_cast<int>(shape_.blocks),
                 .context_max = static_cast<int>(shape_.blocks * cache.block_size),
                 .query_max = static_cast<int>(shape_.query_max)},
        .stream = stream()};
    const absl::StatusOr<std::byte*> workspace =
        Grow(attention_memory_, AttentionWorkspaceBytes(cache, shape.heads, args.step));
    if (!workspace.ok()) return memory_->Note(workspace.status());
    args.workspace = *workspace;
    cuda::Attention(args);
  }

  std::span<const float> Activate(const Gated& gated) {
    CHECK(gated.gate.size() == gated.up.size());
    const GatedArgs args = {.gate = gated.gate.data(),
                            .up = gated.up.data(),
                            .n = static_cast<int64_t>(gated.gate.size()),
                            .stream = stream()};
    gated.activation == Gated::Activation::kSilu ? SiluMul(args) : GeluTanhMul(args);
    return gated.gate;
  }

  void TopKSoftmax(std::span<const float> scores, int64_t n, int64_t k, std::span<int32_t> ids,
                   std::span<float> weights) override {
    const int64_t tokens = Rows(scores.size(), n);
    CHECK(static_cast<int64_t>(ids.size()) == tokens * k && weights.size() == ids.size());
    cuda::TopKSoftmax({.scores = scores.data(),
                       .tokens = tokens,
                       .n = n,
                       .k = k,
                       .ids = ids.data(),
                       .weights = weights.data(),
                       .stream = stream()});
  }

  void RouteExperts(const StepBatch& batch, std::span<const int32_t> ids,
                    std::span<int32_t> first_row, std::span<int32_t> token_of_row,
                    std::span<int32_t> row_of) override {
    CHECK(&batch == batch_ && ids.size() == token_of_row.size() && ids.size() == row_of.size());
    Route({.ids = ids.data(),
           .positions = At<int32_t>(layout_.positions),
           .tokens = batch.tokens(),
           .k = Rows(ids.size(), batch.tokens()),
           .experts = static_cast<int64_t>(first_row.size()) - 1,
           .first_row = first_row.data(),
           .token_of_row = token_of_row.data(),
           .row_of = row_of.data(),
           .stream = stream()});
  }

  // Prompts bring enough rows for the library's products, whose sizes the host must know.
  void ExpertLinear(std::span<const float> x, std::span<const int32_t> first_row,
                    std::span<const Product> products, int groups) override {
    if (Repeats()) return Multiply(x, products, first_row);
    std::vector<int32_t> room;
    const auto host = memory_->Read(first_row, room);
    if (!host.ok()) return memory_->Note(host.status());
    ForExperts(x, *host, products,
               [&](std::span<const float> rows, const auto& own) { Linear(rows, own, groups); });
  }

  void GatherRows(std::span<const float> x, int64_t n, std::span<const int32_t> rows,
                  std::span<float> out) override {
    CHECK(out.size() == rows.size() * static_cast<size_t>(n));
    cuda::GatherRows({.x = x.data(),
                      .index = rows.data(),
                      .out = out.data(),
                      .rows = static_cast<int64_t>(rows.size()),
                      .cols = n,
                      .stream = stream()});
  }

  void CombineRows(std::span<const float> x, int64_t n, std::span<const int32_t> rows,
                   std::span<const float> weights, int64_t k, std::span<float> out) override {
    const int64_t tokens = Rows(rows.size(), k);
    CHECK(rows.size() == weights.size() && static_cast<int64_t>(out.size()) == tokens * n);
    Combine({.y = x.data(),
             .row_of = rows.data(),
             .weights = weights.data(),
             .out = out.data(),
             .tokens = tokens,
             .k = k,
             .cols = n,
             .stream = stream()});
  }

  void MergeColumns(std::span<const float> slices, int64_t tokens, int64_t width, int64_t columns,
                    std::span<float> out) override {
    const int64_t count = Rows(slices.size(), tokens * width);
    CHECK(static_cast<int64_t>(out.size()) == tokens * columns);
    if (count * width >= columns) {
      return MergeSlices({.slices = slices.data(),
                          .out = out.data(),
                          .ranks = count,
                          .rows = tokens,
                          .slice = width,
                          .cols = columns,
                          .stream = stream()});
    }
    // The last ranks' logits of a vocabulary that the ranks do not divide: a few rows.
    for (int64_t row = 0; row < tokens; ++row) {
      for (int64_t slice = 0; slice < count; ++slice) {
        memory_->Note(memory_->Copy(out.data() + row * columns + slice * width,
                                    slices.data() + (slice * tokens + row) * width,
                                    static_cast<size_t>(width) * sizeof(float)));
      }
    }
  }

  void ForEach(int64_t n, const std::function<void(int64_t)>& f) override {
    for (int64_t i = 0; i < n; ++i) f(i);
  }

 private:
  struct Upload {
    PinnedMemory memory;
    Event sent;
  };
  // Of what a decode step's kernels are launched with.
  using Key = std::tuple<int64_t, int64_t, int64_t>;  // tokens, columns of block tables, wanted

  CudaOps() = default;

  // The kind of step that is recorded.
  static bool IsRecorded(int64_t tokens, int64_t query_max) {
    return query_max == 1 && tokens <= kGraphTokensMax;
  }
  bool Repeats() const { return IsRecorded(shape_.tokens, shape_.query_max); }
  cudaStream_t stream() const { return memory_->stream().get(); }

  template <class T>
  const T* At(size_t offset) const {
    return reinterpret_cast<const T*>(plan_ + offset);
  }

  void CheckStep(const StepBatch& batch, size_t size, int64_t row) const {
    CHECK(&batch == batch_ && static_cast<int64_t>(size) == batch.tokens() * row);
  }

  // Zeroed when it grows, which is rare: what grows drops the records.
  absl::StatusOr<std::byte*> Grow(Buffer& buffer, int64_t bytes) {
    if (static_cast<int64_t>(buffer.size()) < bytes) {
      buffer = Buffer();
      ASSIGN_OR_RETURN(buffer, memory_->Allocate(static_cast<size_t>(bytes)));
    }
    return buffer.data();
  }

  std::unique_ptr<CudaMemory> memory_;
  std::map<Key, std::optional<Graph>> records_;  // outlives the memory below: freeing drops them
  std::string name_;
  std::string model_;
  std::unique_ptr<Gemm> gemm_;
  Buffer linear_memory_, attention_memory_, plan_memory_;
  // The step.
  const StepBatch* batch_ = nullptr;
  PlanShape shape_;
  PlanLayout layout_{PlanShape{}};
  std::byte* plan_ = nullptr;
  std::array<Upload, 2> uploads_;
  size_t turn_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> MakeCudaOps(int device) { return CudaOps::Create(device); }

void* StreamOf(Ops& ops) { return static_cast<CudaMemory&>(ops.memory()).stream().get(); }

absl::StatusOr<int> CudaDeviceCount() {
  int count = 0;
  RETURN_IF_ERROR(ToStatus(cudaGetDeviceCount(&count), "cudaGetDeviceCount"));
  return count;
}

absl::StatusOr<std::string> CudaDeviceName(int device) {
  cudaDeviceProp properties{};
  RETURN_IF_ERROR(
      ToStatus(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
  return std::string(properties.name);
}

absl::StatusOr<std::string> CudaDeviceBusId(int device) {
  std::array<char, 32> id{};
  RETURN_IF_ERROR(
      ToStatus(cudaDeviceGetPCIBusId(id.data(), id.size(), device), "cudaDeviceGetPCIBusId"));
  return std::string(id.data());
}

absl::StatusOr<bool> HasNvlink(int device, int peer) {
  if (device == peer) return false;
  int atomics = 0;
  RETURN_IF_ERROR(ToStatus(
      cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, device, peer),
      "cudaDeviceGetP2PAttribute"));
  return atomics != 0;
}

}  // namespace trireme::cuda
