#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/kv_store.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace trireme {
namespace {

using cpu::KernelTable;

// Splits each operation over the threads: matrix rows for Linear, tokens or heads elsewhere.
class CpuOps final : public Ops {
 public:
  CpuOps(const KernelTable& kernels, int threads)
      : kernels_(kernels), pool_(threads), name_(absl::StrCat("cpu ", kernels.name)) {}

  std::string_view name() const override { return name_; }
  int threads() const override { return pool_.size(); }

  void Embedding(std::span<const int32_t> ids, const Weight& table, int64_t first_id,
                 std::span<float> out) override {
    const int64_t n = table.cols;
    CHECK(static_cast<int64_t>(out.size()) == static_cast<int64_t>(ids.size()) * n);
    for (size_t t = 0; t < ids.size(); ++t) {
      float* row = out.data() + static_cast<int64_t>(t) * n;
      const int64_t index = ids[t] - first_id;
      if (index < 0 || index >= table.rows) {
        std::memset(row, 0, static_cast<size_t>(n) * sizeof(float));
        continue;
      }
      kernels_.widen_row(table, index, row);
      // A rank that does not hold the row adds +0, which turns -0 into +0: so does the one that
      // does.
      for (int64_t i = 0; i < n; ++i) row[i] += 0.0f;
    }
  }

  void RmsNorm(std::span<const float> x, const Weight& weight, float eps,
               std::span<float> out) override {
    const int64_t n = weight.cols;
    const int64_t rows = Rows(x.size(), n);
    CHECK(out.size() == x.size());
    norm_weight_.resize(static_cast<size_t>(n));
    kernels_.widen_row(weight, 0, norm_weight_.data());
    ForRows(rows, n, [&](int64_t row) {
      kernels_.rms_norm_row(x.data() + row * n, norm_weight_.data(), eps, n, out.data() + row * n);
    });
  }

  void Linear(std::span<const float> x, const Weight& weight, std::span<const float> bias,
              int groups, std::span<float> y) override {
    const int64_t tokens = Rows(x.size(), weight.cols);
    CHECK(static_cast<int64_t>(y.size()) == tokens * weight.rows);
    CHECK(bias.empty() || static_cast<int64_t>(bias.size()) == weight.rows);
    CHECK(groups >= 1 && groups <= cpu::kLinearGroupsMax && weight.cols % groups == 0);
    const float* activations = x.data();
    if (tokens > 1) {
      if (scratch_.empty()) scratch_.resize(static_cast<size_t>(pool_.size()));
      packed_.resize(std::max(packed_.size(), (x.size() + kCacheLine - 1) / kCacheLine));
      float* packed = packed_.front().data();
      ForRows(tokens, weight.cols, [&](int64_t t) {
        kernels_.pack_activations(x.data(), t, tokens, weight, groups, packed);
      });
      activations = packed;
    }
    const cpu::LinearArgs args{.x = activations,
                               .tokens = tokens,
                               .weight = weight,
                               .bias = bias.empty() ? nullptr : bias.data(),
                               .groups = groups,
                               .y = y.data(),
                               .scratch = nullptr};
    const auto task = [&](int64_t begin, int64_t end, int thread) {
      cpu::LinearArgs own = args;
      own.scratch = scratch_.data() + thread;
      kernels_.linear(own, begin, end);
    };
    pool_.ParallelFor(weight.rows, cpu::kLinearRowBlock, task);
  }

  void Rope(std::span<float> x, int64_t heads, int64_t head_dim, std::span<const float> cos,
            std::span<const float> sin) override {
    const int64_t half = head_dim / 2;
    const int64_t rows = Rows(x.size(), head_dim);
    CHECK(static_cast<int64_t>(cos.size()) * heads == rows * half && cos.size() == sin.size());
    ForRows(rows, head_dim, [&](int64_t row) {
      const int64_t angle = row / heads * half;
      kernels_.rope_head(x.data() + row * head_dim, cos.data() + angle, sin.data() + angle, half);
    });
  }

  void StoreKv(std::span<const float> k, std::span<const float> v,
               std::span<const TokenPlace> places, const KvLayer& cache) override {
    const int64_t head_dim = cache.head_dim;
    const int64_t head_bytes = cache.head_bytes();
    CHECK(cache.block_size % cpu::kAttentionTile == 0 && k.size() == v.size() &&
          static_cast<int64_t>(k.size()) ==
              static_cast<int64_t>(places.size()) * cache.num_kv_heads * head_dim);
    for (size_t t = 0; t < places.size(); ++t) {
      const TokenPlace& place = places[t];
      const int64_t page = place.block_table[place.position / cache.block_size];
      const int64_t slot = place.position % cache.block_size;
      for (int64_t h = 0; h < cache.num_kv_heads; ++h) {
        const int64_t to = (page * cache.num_kv_heads + h) * head_bytes;
        const int64_t from = (static_cast<int64_t>(t) * cache.num_kv_heads + h) * head_dim;
        cpu::StoreKvRow(cache, k.data() + from, cache.k + to, slot);
        cpu::StoreKvRow(cache, v.data() + from, cache.v + to, slot);
      }
    }
  }

  void Attention(std::span<const float> q, std::span<const TokenPlace> places, const KvLayer& cache,
                 int64_t heads, int64_t window, std::span<float> out) override {
    CHECK(cache.block_size % cpu::kAttentionTile == 0 && heads % cache.num_kv_heads == 0);
    CHECK(out.size() == q.size() &&
          static_cast<int64_t>(q.size()) ==
              static_cast<int64_t>(places.size()) * heads * cache.head_dim);
    const int64_t group = heads / cache.num_kv_heads;
    FindRuns(places);
    const int64_t items = static_cast<int64_t>(runs_.size()) * cache.num_kv_heads;
    // Later tokens see more: threads take items in turn, so that each gets its share of long ones.
    const auto task = [&](int thread) {
      for (int64_t item = thread; item < items; item += pool_.size()) {
        const Run& run = runs_[static_cast<size_t>(item / cache.num_kv_heads)];
        const int64_t kv_head = item % cache.num_kv_heads;
        const TokenPlace& place = places[static_cast<size_t>(run.first)];
        const int64_t head_offset = kv_head * cache.head_bytes();
        const int64_t row = (run.first * heads + kv_head * group) * cache.head_dim;
        kernels_.attention({.q = q.data() + row,
                            .tokens = run.tokens,
                            .token_stride = heads * cache.head_dim,
                            .group = group,
                            .k = cache.k + head_offset,
                            .v = cache.v + head_offset,
                            .page_bytes = cache.page_bytes(),
                            .dtype = cache.dtype,
                            .block_table = place.block_table.data(),
                            .block_size = cache.block_size,
                            .head_dim = cache.head_dim,
                            .position = place.position,
                            .window = window,
                            .out = out.data() + row});
      }
    };
    pool_.Run(task);
  }

  void SiluMul(std::span<float> gate, std::span<const float> up) override {
    CHECK(gate.size() == up.size());
    pool_.ParallelFor(static_cast<int64_t>(gate.size()), kElementGrain,
                      [&](int64_t begin, int64_t end, int) {
                        kernels_.silu_mul(gate.data() + begin, up.data() + begin, end - begin);
                      });
  }

  void AddResidual(std::span<float> hidden, std::span<const float> delta,
                   std::span<const float> bias) override {
    CHECK(hidden.size() == delta.size());
    const int64_t size = static_cast<int64_t>(hidden.size());
    if (bias.empty()) {
      pool_.ParallelFor(size, kElementGrain, [&](int64_t begin, int64_t end, int) {
        kernels_.add(hidden.data() + begin, delta.data() + begin, end - begin);
      });
      return;
    }
    const int64_t n = static_cast<int64_t>(bias.size());
    ForRows(Rows(hidden.size(), n), n, [&](int64_t row) {
      kernels_.add(hidden.data() + row * n, delta.data() + row * n, n);
      kernels_.add(hidden.data() + row * n, bias.data(), n);
    });
  }

  void ForEach(int64_t n, const std::function<void(int64_t)>& f) override {
    if (n == 1) return f(0);
    std::atomic<int64_t> next{0};
    pool_.Run([&](int) {
      for (int64_t i = next++; i < n; i = next++) f(i);
    });
  }

 private:
  static constexpr size_t kCacheLine = 16;  // floats
  struct alignas(64) CacheLine : std::array<float, kCacheLine> {};

  // Tokens of a step that follow each other in one sequence.
  struct Run {
    int64_t first = 0;
    int64_t tokens = 0;
  };

  void FindRuns(std::span<const TokenPlace> places) {
    runs_.clear();
    for (size_t t = 0; t < places.size(); ++t) {
      const bool goes_on = t > 0 && runs_.back().tokens < cpu::kAttentionTokens &&
                           places[t].block_table.data() == places[t - 1].block_table.data() &&
                           places[t].position == places[t - 1].position + 1;
      if (goes_on) {
        ++runs_.back().tokens;
      } else {
        runs_.push_back({.first = static_cast<int64_t>(t), .tokens = 1});
      }
    }
  }

  // Elements below which one thread is faster than waking the others.
  static constexpr int64_t kElementGrain = 4096;

  static int64_t Rows(size_t size, int64_t row) {
    CHECK(row > 0 && static_cast<int64_t>(size) % row == 0);
    return static_cast<int64_t>(size) / row;
  }

  // Calls f(row) for every row of n elements.
  template <class F>
  void ForRows(int64_t rows, int64_t n, const F& f) {
    const int64_t grain = std::max<int64_t>(1, kElementGrain / n);
    pool_.ParallelFor(rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) f(row);
    });
  }

  const KernelTable& kernels_;
  cpu::ThreadPool pool_;
  const std::string name_;
  std::vector<float> norm_weight_;
  std::vector<Run> runs_;
  std::vector<CacheLine> packed_;            // activations of Linear
  std::vector<cpu::LinearScratch> scratch_;  // one for each thread, once there is a batch
};

// Best first.
std::vector<const KernelTable*> SupportedKernels() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    tables.push_back(&cpu::Avx512Kernels());
  }
  // Every CPU with AVX2 has F16C; clang 14 cannot ask for it.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    tables.push_back(&cpu::Avx2Kernels());
  }
#endif
  tables.push_back(&cpu::ScalarKernels());
  return tables;
}

}  // namespace

std::vector<std::string> CpuVariants() {
  std::vector<std::string> names;
  for (const KernelTable* table : SupportedKernels()) names.emplace_back(table->name);
  return names;
}

absl::StatusOr<std::unique_ptr<Ops>> MakeCpuOps(int threads, std::string_view variant) {
  if (threads < 1 || threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads must be between 1 and 1024, not ", threads));
  }
  for (const KernelTable* table : SupportedKernels()) {
    if (variant.empty() || variant == table->name) return std::make_unique<CpuOps>(*table, threads);
  }
  return absl::InvalidArgumentError(absl::StrCat("unsupported: CPU variant \"",
                                                 std::string(variant), "\"; this machine runs ",
                                                 absl::StrJoin(CpuVariants(), ", ")));
}

}  // namespace trireme
