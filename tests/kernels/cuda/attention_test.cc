#include "kernels/cuda/attention.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/ops.h"
#include "tests/kernels/cuda/device_array.h"
#include "tests/kernels/reference.h"

namespace trireme::cuda {
namespace {

template <class T>
void Upload(const std::vector<T>& from, const DeviceArray<T>& to) {
  EXPECT_EQ(cudaMemcpy(to.data(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice),
            cudaSuccess);
}

// A graph of one call.
class Captured {
 public:
  explicit Captured(AttentionArgs args) {
    EXPECT_EQ(cudaStreamCreate(&stream_), cudaSuccess);
    args.stream = stream_;
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), cudaSuccess);
    Attention(args);
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiate(&exec_, graph, 0), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  }
  ~Captured() {
    cudaGraphExecDestroy(exec_);
    cudaStreamDestroy(stream_);
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;

  void Replay() const {
    EXPECT_EQ(cudaGraphLaunch(exec_, stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
};

struct Model {
  KvDType dtype = KvDType::kBF16;
  int head_dim = 64;
  int heads = 4;
  int kv_heads = 2;
  int block_size = 16;
  int window = 0;
  float scale = 0.125f;
};

// A sequence of `context` positions, the last `query` of which are this step's tokens; the seed
// makes its data. Padding has position -1.
struct Sequence {
  int context = 0;
  int query = 1;
  uint32_t seed = 1;
  bool padding = false;
};

struct Options {
  int padding_tokens = 0;  // behind the last sequence
  int split_query_max = 1;
  int context_max = 0;  // 0: what is needed
};

constexpr int32_t kNoPage = 1 << 28;  // to look it up is to crash

// A step's data on the host; the CPU backend fills the cache.
class Step {
 public:
  Step(const Model& model, std::vector<Sequence> sequences, const Options& options = {})
      : model_(model),
        sequences_(std::move(sequences)),
        options_(options),
        ops_(*MakeCpuOps(1, "scalar")) {
    layer_ = {.dtype = model.dtype,
              .num_kv_heads = model.kv_heads,
              .block_size = model.block_size,
              .head_dim = model.head_dim};
    int pages = 0;
    for (const Sequence& s : sequences_) {
      const int blocks = (s.context + model.block_size - 1) / model.block_size;
      blocks_max_ = std::max(blocks_max_, blocks + 1);
      pages += blocks;
      context_max_ = std::max(context_max_, s.context);
      query_max_ = std::max(query_max_, s.query);
    }
    if (options.context_max > 0) context_max_ = options.context_max;
    k_.assign((2 * pages + 1) * layer_.page_bytes(), std::byte{0xff});
    v_ = k_;
    layer_.k = k_.data();
    layer_.v = v_.data();
    tables_.assign(sequences_.size() * blocks_max_, kNoPage);
    for (size_t s = 0; s < sequences_.size(); ++s) Fill(s, pages);
    starts_.push_back(tokens());
    for (int i = 0; i < options.padding_tokens; ++i) AddPadding(-1);
  }

  int tokens() const { return static_cast<int>(positions_.size()); }
  int row() const { return model_.heads * model_.head_dim; }
  int first_token(size_t sequence) const { return starts_[sequence]; }

  // Captured in a graph before anything is uploaded: nothing but the bucket's sizes is known then.
  std::vector<float> Run() const {
    const DeviceArray<float> q(q_.size()), out(q_.size());
    const DeviceArray<std::byte> k(k_.size()), v(v_.size());
    const DeviceArray<int32_t> positions(positions_.size()), sequence_of(sequence_of_.size()),
        starts(starts_.size()), tables(tables_.size());
    AttentionArgs args{.q = q.data(),
                       .out = out.data(),
                       .cache = layer_,
                       .heads = model_.heads,
                       .scale = model_.scale,
                       .window = model_.window,
                       .step = {.positions = positions.data(),
                                .sequence_of_token = sequence_of.data(),
                                .query_start = starts.data(),
                                .block_tables = tables.data(),
                                .tokens = tokens(),
                                .sequences = static_cast<int>(sequences_.size()),
                                .blocks_max = blocks_max_,
                                .context_max = std::max(context_max_, 1),
                                .query_max = query_max_,
                                .split_query_max = options_.split_query_max}};
    args.cache.k = k.data();
    args.cache.v = v.data();
    const DeviceArray<std::byte> workspace(
        AttentionWorkspaceBytes(layer_, model_.heads, args.step));
    args.workspace = workspace.data();
    const Captured captured(args);
    Upload(q_, q);
    Upload(k_, k);
    Upload(v_, v);
    Upload(positions_, positions);
    Upload(sequence_of_, sequence_of);
    Upload(starts_, starts);
    Upload(tables_, tables);
    captured.Replay();
    return out.ToHost();
  }

  // Rows of one sequence's tokens.
  std::vector<float> Rows(const std::vector<float>& out, size_t sequence) const {
    return {out.begin() + starts_[sequence] * row(), out.begin() + starts_[sequence + 1] * row()};
  }

  // Against the formula in double precision over what the cache holds, and against the CPU backend.
  // Where tensor cores are used, queries are rounded to bfloat16 beforehand, here too; what remains
  // is that each weight is rounded, by at most 2^-8 of it: the error of an output is at most 2^-8
  // of the weighted mean of |v|. `stride`: tokens to check.
  void Check(const std::vector<float>& out, int stride = 1) const {
    const bool fast = AttentionIsFast(layer_, model_.heads);
    std::vector<float> q = q_;
    if (fast) {
      for (float& x : q) x = static_cast<float>(Bf16ToDouble(RoundToBf16(x)));
    }
    for (int t = 0; t < tokens(); ++t) {
      const int position = positions_[t];
      const bool last = t + 1 == tokens() || sequence_of_[t + 1] != sequence_of_[t];
      if (position >= 0 && t % stride != 0 && !last) continue;
      std::vector<float> cpu(row(), 0.0f);
      if (position >= 0) {
        StepBatch one;
        one.ids = {0};
        one.places = {{.position = position, .block_table = Table(sequence_of_[t])}};
        ops_->Attention(std::span(q).subspan(t * row(), row()), one, layer_,
                        {.heads = model_.heads, .scale = model_.scale, .window = model_.window},
                        cpu);
      }
      for (int h = 0; h < model_.heads; ++h) {
        const std::vector<double> expected = Formula(q, t, h);
        for (int d = 0; d < model_.head_dim; ++d) {
          const double x = out[t * row() + h * model_.head_dim + d];
          const double bound = expected[model_.head_dim + d] * (fast ? 0x1p-8 : 0) + 1e-5;
          ASSERT_NEAR(x, expected[d], bound) << "token " << t << " head " << h << " dim " << d;
          ASSERT_NEAR(x, cpu[h * model_.head_dim + d], bound) << "token " << t << " head " << h;
        }
      }
    }
  }

 private:
  std::span<const int32_t> Table(int sequence) const {
    return std::span(tables_).subspan(sequence * blocks_max_, blocks_max_);
  }

  void AddPadding(int sequence) {
    positions_.push_back(-1);
    sequence_of_.push_back(sequence);
    q_.insert(q_.end(), row(), NAN);
  }

  // A sequence's pages, keys, values, and this step's queries.
  void Fill(size_t index, int pages) {
    const Sequence& s = sequences_[index];
    starts_.push_back(tokens());
    if (s.padding) return AddPadding(static_cast<int>(index));
    const int blocks = (s.context + model_.block_size - 1) / model_.block_size;
    int32_t* table = &tables_[index * blocks_max_];
    for (int b = 0; b < blocks; ++b) table[b] = 2 * ((pages_used_++ * 7 + 3) % pages) + 1;
    if (pages % 7 == 0) {
      for (int b = 0; b < blocks; ++b) table[b] = 2 * (pages_used_ - 1 - b) + 1;
    }
    const int64_t kv_row = model_.kv_heads * model_.head_dim;
    StepBatch batch;
    batch.ids.resize(s.context);
    for (int t = 0; t < s.context; ++t) {
      batch.places.push_back({.position = t, .block_table = Table(static_cast<int>(index))});
    }
    batch.rope.cos.assign(size_t(s.context) * model_.head_dim / 2, 1.0f);  // turns by nothing
    batch.rope.sin.assign(size_t(s.context) * model_.head_dim / 2, 0.0f);
    std::vector<float> keys = RandomFloats(s.context * kv_row, s.seed * 3 + 1);
    ops_->RopeStoreKv({}, keys, RandomFloats(s.context * kv_row, s.seed * 3 + 2), batch,
                      {.heads = 0}, layer_);
    const std::vector<float> q = RandomFloats(size_t(s.context) * row(), s.seed * 3, 2.0f);
    q_.insert(q_.end(), q.end() - s.query * row(), q.end());
    for (int t = s.context - s.query; t < s.context; ++t) {
      positions_.push_back(t);
      sequence_of_.push_back(static_cast<int32_t>(index));
    }
    // Pages that the window has left behind are someone else's by now.
    const int first_seen = model_.window > 0 ? s.context - s.query + 1 - model_.window : 0;
    for (int b = 0; b < first_seen / model_.block_size; ++b) table[b] = kNoPage;
  }

  // An element of the cache, by kv_layer.h.
  double Held(bool key, int sequence, int position, int head, int d) const {
    const int slot = position % model_.block_size, n = model_.head_dim;
    const int64_t page = Table(sequence)[position / model_.block_size];
    const std::byte* from =
        (key ? k_ : v_).data() + page * layer_.page_bytes() + head * layer_.head_bytes();
    const int at = key ? (slot / 16 * n + d) * 16 + slot % 16 : slot * n + d;
    float x = 0;
    if (model_.dtype == KvDType::kF32) {
      std::memcpy(&x, from + at * 4, 4);
      return x;
    }
    if (model_.dtype == KvDType::kBF16) {
      uint16_t bits = 0;
      std::memcpy(&bits, from + at * 2, 2);
      return Bf16ToDouble(bits);
    }
    std::memcpy(&x, from + model_.block_size * n + slot * 4, 4);
    return double{x} * static_cast<int8_t>(from[at]);
  }

  // The output of a head, [head_dim], then the weighted means of |v|.
  std::vector<double> Formula(const std::vector<float>& q, int token, int head) const {
    const int n = model_.head_dim, position = positions_[token], sequence = sequence_of_[token];
    std::vector<double> result(2 * n);
    if (position < 0) return result;
    const int kv_head = head / (model_.heads / model_.kv_heads);
    const int begin = model_.window > 0 ? std::max(0, position + 1 - model_.window) : 0;
    std::vector<double> weights;
    for (int j = begin; j <= position; ++j) {
      double dot = 0;
      for (int d = 0; d < n; ++d) {
        dot += q[token * row() + head * n + d] * Held(true, sequence, j, kv_head, d);
      }
      weights.push_back(dot * model_.scale);
    }
    const double largest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& w : weights) sum += w = std::exp(w - largest);
    for (int j = begin; j <= position; ++j) {
      for (int d = 0; d < n; ++d) {
        const double v = Held(false, sequence, j, kv_head, d);
        result[d] += weights[j - begin] / sum * v;
        result[n + d] += weights[j - begin] / sum * std::abs(v);
      }
    }
    return result;
  }

  const Model model_;
  const std::vector<Sequence> sequences_;
  const Options options_;
  const std::unique_ptr<Ops> ops_;
  KvLayer layer_;
  int blocks_max_ = 0;
  int context_max_ = 0;
  int query_max_ = 1;
  int pages_used_ = 0;
  std::vector<std::byte> k_, v_;
  std::vector<int32_t> tables_, positions_, sequence_of_, starts_;
  std::vector<float> q_;
};

void RunAndCheck(const Model& model, std::vector<Sequence> sequences, const Options& options = {},
                 int stride = 1) {
  const Step step(model, std::move(sequences), options);
  step.Check(step.Run(), stride);
}

// Borders of key groups, pages, tiles and parts of the context.
std::vector<Sequence> DecodeBatch() {
  std::vector<Sequence> batch;
  for (const int context : {1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 511, 512, 513, 1000}) {
    batch.push_back({.context = context, .seed = static_cast<uint32_t>(context)});
    if (context == 63) batch.push_back({.padding = true});
  }
  return batch;
}

TEST(CudaAttention, DecodeMatchesFormula) {
  RunAndCheck({.heads = 8, .kv_heads = 2}, DecodeBatch(), {.padding_tokens = 3});
}

TEST(CudaAttention, DecodeOverInt8MatchesFormula) {
  RunAndCheck({.dtype = KvDType::kInt8, .heads = 8, .kv_heads = 2}, DecodeBatch(),
              {.padding_tokens = 3});
}

TEST(CudaAttention, DecodeOfAllHeadSizesAndGroupsMatchesFormula) {
  const std::vector<Sequence> batch = {{.context = 40}, {.context = 530, .seed = 2}};
  for (const KvDType dtype : {KvDType::kBF16, KvDType::kInt8}) {
    RunAndCheck({.dtype = dtype, .head_dim = 64, .heads = 3, .kv_heads = 3}, batch);
    RunAndCheck({.dtype = dtype, .head_dim = 128, .heads = 7, .kv_heads = 1}, batch);
    RunAndCheck({.dtype = dtype, .head_dim = 128, .heads = 21, .kv_heads = 1, .block_size = 48},
                batch);
    RunAndCheck({.dtype = dtype, .head_dim = 256, .heads = 8, .kv_heads = 2, .block_size = 32},
                batch);
  }
}

TEST(CudaAttention, DecodeOfSeveralTokensMatchesFormula) {
  RunAndCheck({.heads = 16, .kv_heads = 2},
              {{.context = 70, .query = 5},
               {.context = 514, .query = 8, .seed = 2},
               {.context = 3, .query = 3, .seed = 3}},
              {.split_query_max = 8});
}

TEST(CudaAttention, PrefillMatchesFormula) {
  for (const KvDType dtype : {KvDType::kBF16, KvDType::kInt8}) {
    RunAndCheck({.dtype = dtype, .heads = 4, .kv_heads = 1},
                {{.context = 2, .query = 2}, {.context = 100, .query = 100, .seed = 2}}, {}, 7);
    RunAndCheck({.dtype = dtype, .head_dim = 128, .heads = 3, .kv_heads = 1, .block_size = 32},
                {{.context = 90, .query = 50}, {.context = 530, .query = 20, .seed = 2}}, {}, 5);
    RunAndCheck({.dtype = dtype, .head_dim = 256, .heads = 2, .kv_heads = 2},
                {{.context = 75, .query = 70}}, {}, 11);
  }
}

TEST(CudaAttention, MixedBatchMatchesFormula) {
  RunAndCheck({.heads = 8, .kv_heads = 1},
              {{.context = 600, .query = 1},
               {.context = 50, .query = 33, .seed = 2},
               {.padding = true},
               {.context = 17, .query = 1, .seed = 3},
               {.context = 520, .query = 9, .seed = 4},
               {.context = 1, .query = 1, .seed = 5}},
              {.padding_tokens = 5, .context_max = 4096}, 3);
  RunAndCheck({.heads = 40, .kv_heads = 1},
              {{.context = 90, .query = 7}, {.context = 81, .seed = 2}, {.context = 3, .query = 2}},
              {.split_query_max = 2});
}

TEST(CudaAttention, WindowMatchesFormula) {
  for (const int window : {1, 16, 100, 512, 513}) {
    RunAndCheck({.heads = 4, .kv_heads = 1, .window = window},
                {{.context = 700, .query = 1}, {.context = 590, .query = 12, .seed = 2}}, {}, 4);
  }
  RunAndCheck({.dtype = KvDType::kInt8, .heads = 4, .kv_heads = 1, .window = 30},
              {{.context = 200, .query = 1}, {.context = 120, .query = 70, .seed = 2}}, {}, 9);
}

TEST(CudaAttention, GenericKernelMatchesFormula) {
  const std::vector<Sequence> batch = {{.context = 1},
                                       {.context = 130, .query = 20, .seed = 2},
                                       {.padding = true},
                                       {.context = 257, .seed = 3}};
  for (const int window : {0, 33}) {
    for (const KvDType dtype : {KvDType::kF32, KvDType::kBF16, KvDType::kInt8}) {
      RunAndCheck({.dtype = dtype, .head_dim = 80, .heads = 3, .kv_heads = 1, .window = window},
                  batch, {.padding_tokens = 2}, 6);
    }
    RunAndCheck({.dtype = KvDType::kF32, .heads = 4, .window = window}, batch, {}, 6);
  }
}

// The same position of the same sequence: alone, among others, as one of few or of many tokens.
TEST(CudaAttention, BitsDependOnTheSequenceAlone) {
  for (const KvDType dtype : {KvDType::kBF16, KvDType::kInt8}) {
    for (const int window : {0, 40}) {
      const Model model{.dtype = dtype, .heads = 4, .kv_heads = 1, .window = window};
      const Sequence last{.context = 1030, .seed = 9};
      const Step alone(model, {last});
      const std::vector<float> expected = alone.Run();
      const auto expect_same = [&](std::vector<Sequence> batch, size_t at, Options options) {
        const Step step(model, std::move(batch), options);
        const std::vector<float> rows = step.Rows(step.Run(), at);
        EXPECT_EQ(std::vector<float>(rows.end() - step.row(), rows.end()), expected)
            << KvDTypeName(dtype) << " window " << window;
      };
      Sequence few = last, many = last;
      few.query = 6;
      many.query = 45;
      expect_same({{.context = 70}, last, {.context = 200, .query = 30, .seed = 2}}, 1, {});
      expect_same({last, {.context = 900, .seed = 2}}, 0, {.context_max = 8192});
      // So many sequences that a block takes all parts of one.
      std::vector<Sequence> crowd(4100, {.padding = true});
      crowd[17] = last;
      expect_same(crowd, 17, {});
      expect_same({few}, 0, {.split_query_max = 8});
      expect_same({{.context = 5}, few}, 1, {.split_query_max = 2});
      expect_same({many, {.context = 30, .query = 10, .seed = 2}}, 0, {});
    }
  }
}

TEST(CudaAttention, ChunkOfAPromptChangesNoBits) {
  const Model model{.head_dim = 128, .heads = 6, .kv_heads = 2, .window = 0};
  const Step whole(model, {{.context = 80, .query = 80, .seed = 4}});
  const std::vector<float> expected = whole.Run();
  const Step chunk(
      model, {{.context = 9, .query = 5, .seed = 3}, {.context = 80, .query = 33, .seed = 4}});
  const std::vector<float> rows = chunk.Rows(chunk.Run(), 1);
  EXPECT_EQ(rows, std::vector<float>(expected.end() - 33 * whole.row(), expected.end()));
}

TEST(CudaAttention, UnsupportedShapesAreNamed) {
  const KvLayer good{.dtype = KvDType::kBF16, .num_kv_heads = 2, .block_size = 16, .head_dim = 128};
  EXPECT_TRUE(CheckAttention(good, 8).ok());
  EXPECT_TRUE(AttentionIsFast(good, 8));
  EXPECT_FALSE(AttentionIsFast(good, 2 * 65));
  EXPECT_FALSE(CheckAttention(good, 7).ok());
  KvLayer bad = good;
  bad.head_dim = 5000;
  EXPECT_EQ(CheckAttention(bad, 8).message(),
            "unsupported: head_dim 5000 on a GPU; the most is 4096");
  bad = good;
  bad.block_size = 8;
  EXPECT_EQ(CheckAttention(bad, 8).code(), absl::StatusCode::kUnimplemented);
}

TEST(CudaAttention, WorkspaceHoldsAllPartsOfAllDecodedTokens) {
  const KvLayer layer{
      .dtype = KvDType::kBF16, .num_kv_heads = 2, .block_size = 16, .head_dim = 128};
  const AttentionStep step{.tokens = 64, .sequences = 5, .context_max = 1025, .split_query_max = 2};
  EXPECT_EQ(AttentionWorkspaceBytes(layer, 8, step), 5 * 2 * 8 * 3 * (128 + 2) * 4);
}

}  // namespace
}  // namespace trireme::cuda
