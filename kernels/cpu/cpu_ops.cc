#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <numeric>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/kv_store.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/panel_source.h"

namespace trireme {
namespace {

using cpu::KernelTable;

// Splits each operation over the threads: matrix rows for Linear, tokens or heads elsewhere.
class CpuOps final : public Ops {
 public:
  CpuOps(const KernelTable& kernels, int threads, std::span<const int> cpus)
      : kernels_(kernels),
        pool_(threads, cpus),
        name_(absl::StrCat("cpu ", kernels.name)),
        row_memory_(static_cast<size_t>(threads)),
        panel_memory_(static_cast<size_t>(threads)),
        scratch_(static_cast<size_t>(threads)),
        panel_sums_(static_cast<size_t>(threads)) {}

  std::string_view name() const override { return name_; }
  std::string_view model() const override { return name_; }
  int threads() const override { return pool_.size(); }
  Memory& memory() override { return HostMemory(); }
  bool Packs(DType dtype) const override { return quant::IsPacked(dtype); }
  bool MultipliesFp8() const override { return false; }

  absl::Status BeginStep(const StepBatch&) override { return absl::OkStatus(); }
  int64_t PaddedTokens(int64_t tokens) const override { return tokens; }
  bool ExpertLinearWaits(int64_t /*tokens*/, int64_t /*query_max*/) const override { return false; }
  absl::Status Run(const std::function<absl::Status()>& work) override { return work(); }
  std::span<const int32_t> Wanted(const StepBatch& batch) const override { return batch.wanted; }

  void Embedding(const StepBatch& batch, const Weight& table, int64_t first_id, float scale,
                 std::span<float> out) override {
    const std::vector<int32_t>& ids = batch.ids;
    const int64_t n = table.cols;
    CHECK(static_cast<int64_t>(out.size()) == static_cast<int64_t>(ids.size()) * n);
    for (size_t t = 0; t < ids.size(); ++t) {
      float* row = out.data() + static_cast<int64_t>(t) * n;
      const int64_t index = ids[t] - first_id;
      if (index < 0 || index >= table.rows) {
        std::memset(row, 0, static_cast<size_t>(n) * sizeof(float));
        continue;
      }
      WidenRow(table, index, row);
      // A rank that does not hold the row adds +0, which turns -0 into +0: so does the one that
      // does.
      for (int64_t i = 0; i < n; ++i) row[i] = row[i] * scale + 0.0f;
    }
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
    ForRows(Rows(hidden.size(), n), n, [&](int64_t row) { AddRow(hidden, delta, bias, n, row); });
  }

  std::span<const float> Materialize(const Input& input) override {
    if (const auto* there = std::get_if<std::span<const float>>(&input)) return *there;
    if (const auto* gated = std::get_if<Gated>(&input)) {
      pool_.ParallelFor(Size(input), kElementGrain, [&](int64_t begin, int64_t end, int) {
        Activate(*gated, begin, end - begin, gated->gate.data() + begin);
      });
      return gated->gate;
    }
    const auto& normed = std::get<Normed>(input);
    CHECK(normed.out.size() == normed.hidden.size());
    const int64_t n = static_cast<int64_t>(normed.weight.size());
    ForRows(Rows(normed.hidden.size(), n), n,
            [&](int64_t row) { NormRow(normed, row, normed.out.data() + row * n); });
    return normed.out;
  }

  void Linear(const Input& x, std::span<const Product> products, int groups) override {
    const int64_t cols = products.front().weight.cols;
    const int64_t tokens = Rows(static_cast<size_t>(Size(x)), cols);
    if (tokens == 0) return;
    activations_.clear();
    forms_.clear();
    chunks_.clear();
    for (size_t i = 0; i < products.size(); ++i) {
      const Weight& weight = products[i].weight;
      CHECK(weight.cols == cols && weight.packed == quant::IsPacked(weight.dtype));
      CHECK(static_cast<int64_t>(products[i].y.size()) == tokens * weight.rows);
      CHECK(products[i].bias.empty() ||
            static_cast<int64_t>(products[i].bias.size()) == weight.rows);
      CHECK(groups >= 1 && groups <= cpu::kLinearGroupsMax && cols % groups == 0);
      AddForm(products, i, tokens);
      AddChunks(weight, tokens, i);
    }
    WriteForms(x, products, tokens, groups);
    std::atomic<size_t> next{0};
    pool_.Run([&](int thread) {
      for (size_t i = next++; i < chunks_.size(); i = next++) {
        const Chunk& chunk = chunks_[i];
        RunChunk(products[chunk.product], activations_[chunk.product], tokens, chunk, groups,
                 thread);
      }
    });
  }

  void RopeStoreKv(std::span<float> q, std::span<float> k, std::span<const float> v,
                   const StepBatch& batch, const AttentionShape& shape,
                   const KvLayer& cache) override {
    const int64_t row = cache.num_kv_heads * cache.head_dim;
    CHECK(cache.block_size % kKeyGroup == 0 && k.size() == v.size() &&
          static_cast<int64_t>(k.size()) == batch.tokens() * row);
    const RopeAngles& angles = shape.local_rope ? batch.local_rope : batch.rope;
    Rope(q, shape.heads, cache.head_dim, angles);
    Rope(k, cache.num_kv_heads, cache.head_dim, angles);
    for (int64_t t = 0; t < batch.tokens(); ++t) {
      StoreKv(k.data() + t * row, v.data() + t * row, batch.places[static_cast<size_t>(t)], cache);
    }
  }

  void Attention(std::span<const float> q, const StepBatch& batch, const KvLayer& cache,
                 const AttentionShape& shape, std::span<float> out) override {
    const std::vector<TokenPlace>& places = batch.places;
    const int64_t heads = shape.heads;
    CHECK(cache.block_size % kKeyGroup == 0 && heads % cache.num_kv_heads == 0);
    CHECK(out.size() == q.size() &&
          static_cast<int64_t>(q.size()) ==
              static_cast<int64_t>(places.size()) * heads * cache.head_dim);
    const int64_t group = heads / cache.num_kv_heads;
    FindRuns(places);
    const int64_t items = static_cast<int64_t>(runs_.size()) * cache.num_kv_heads;
    // Later tokens see more: threads take items in turn, so that each gets its share of long ones.
    const auto task = [&](int thread) {
      for (int64_t item = thread; item < items; item += pool_.size()) {
        const TokenRun& run = runs_[static_cast<size_t>(item / cache.num_kv_heads)];
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
                            .scale = shape.scale,
                            .position = place.position,
                            .window = shape.window,
                            .out = out.data() + row});
      }
    };
    pool_.Run(task);
  }

  void TopKSoftmax(std::span<const float> scores, int64_t n, int64_t k, std::span<int32_t> ids,
                   std::span<float> weights) override {
    const int64_t rows = Rows(scores.size(), n);
    CHECK(k >= 1 && k <= n && ids.size() == weights.size() &&
          static_cast<int64_t>(ids.size()) == rows * k);
    ForRows(rows, n * k, [&](int64_t row) {
      kernels_.top_k_softmax(scores.data() + row * n, n, k, ids.data() + row * k,
                             weights.data() + row * k);
    });
  }

  void RouteExperts(const StepBatch& batch, std::span<const int32_t> ids,
                    std::span<int32_t> first_row, std::span<int32_t> token_of_row,
                    std::span<int32_t> row_of) override {
    CHECK(ids.size() == token_of_row.size() && ids.size() == row_of.size());
    const int64_t choices = Rows(ids.size(), batch.tokens());
    std::fill(first_row.begin(), first_row.end(), 0);
    for (const int32_t expert : ids) ++first_row[static_cast<size_t>(expert) + 1];
    std::partial_sum(first_row.begin(), first_row.end(), first_row.begin());
    std::vector<int32_t> next(first_row.begin(), first_row.end() - 1);
    for (size_t choice = 0; choice < ids.size(); ++choice) {
      const int32_t row = next[static_cast<size_t>(ids[choice])]++;
      row_of[choice] = row;
      token_of_row[static_cast<size_t>(row)] =
          static_cast<int32_t>(static_cast<int64_t>(choice) / choices);
    }
  }

  void ExpertLinear(std::span<const float> x, std::span<const int32_t> first_row,
                    std::span<const Product> products, int groups) override {
    ForExperts(x, first_row, products,
               [&](std::span<const float> rows, const auto& own) { Linear(rows, own, groups); });
  }

  void GatherRows(std::span<const float> x, int64_t n, std::span<const int32_t> rows,
                  std::span<float> out) override {
    CHECK(out.size() == rows.size() * static_cast<size_t>(n));
    ForRows(static_cast<int64_t>(rows.size()), n, [&](int64_t i) {
      std::copy_n(x.data() + rows[static_cast<size_t>(i)] * n, n, out.data() + i * n);
    });
  }

  void CombineRows(std::span<const float> x, int64_t n, std::span<const int32_t> rows,
                   std::span<const float> weights, int64_t k, std::span<float> out) override {
    CHECK(rows.size() == weights.size());
    const int64_t tokens = Rows(rows.size(), k);
    CHECK(static_cast<int64_t>(out.size()) == tokens * n);
    ForRows(tokens, n * k, [&](int64_t token) {
      float* to = out.data() + token * n;
      for (int64_t j = 0; j < k; ++j) {
        const size_t choice = static_cast<size_t>(token * k + j);
        const float* from = x.data() + rows[choice] * n;
        const float weight = weights[choice];
        for (int64_t i = 0; i < n; ++i) to[i] = (j == 0 ? 0.0f : to[i]) + weight * from[i];
      }
    });
  }

  void MergeColumns(std::span<const float> slices, int64_t tokens, int64_t width, int64_t columns,
                    std::span<float> out) override {
    const int64_t count = Rows(slices.size(), tokens * width);
    CHECK(static_cast<int64_t>(out.size()) == tokens * columns);
    ForRows(tokens, columns, [&](int64_t t) {
      for (int64_t s = 0; s < count && s * width < columns; ++s) {
        std::copy_n(slices.data() + (s * tokens + t) * width, std::min(width, columns - s * width),
                    out.data() + t * columns + s * width);
      }
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

  void AddRow(std::span<float> hidden, std::span<const float> delta, std::span<const float> bias,
              int64_t n, int64_t row) {
    kernels_.add(hidden.data() + row * n, delta.data() + row * n, n);
    if (!bias.empty()) kernels_.add(hidden.data() + row * n, bias.data(), n);
  }

  // Elements of the rows.
  static int64_t Size(const Input& input) {
    if (const auto* there = std::get_if<std::span<const float>>(&input)) {
      return static_cast<int64_t>(there->size());
    }
    if (const auto* gated = std::get_if<Gated>(&input)) {
      CHECK(gated->gate.size() == gated->up.size());
      return static_cast<int64_t>(gated->gate.size());
    }
    return static_cast<int64_t>(std::get<Normed>(input).hidden.size());
  }

  void NormRow(const Normed& normed, int64_t row, float* out) {
    const int64_t n = static_cast<int64_t>(normed.weight.size());
    CHECK(normed.delta.empty() || normed.delta.size() == normed.hidden.size());
    CHECK(normed.bias.empty() || normed.bias.size() == normed.weight.size());
    if (!normed.delta.empty()) AddRow(normed.hidden, normed.delta, normed.bias, n, row);
    kernels_.rms_norm_row(normed.hidden.data() + row * n, normed.weight.data(), normed.eps, n, out);
  }

  // Of n elements from `begin` on.
  void Activate(const Gated& gated, int64_t begin, int64_t n, float* out) {
    const auto kernel =
        gated.activation == Gated::Activation::kSilu ? kernels_.silu_mul : kernels_.gelu_tanh_mul;
    kernel(gated.gate.data() + begin, gated.up.data() + begin, n, out);
  }

  // Row `row` of n elements; made in `room` if it is not there.
  const float* Row(const Input& input, int64_t row, int64_t n, float* room) {
    if (const auto* there = std::get_if<std::span<const float>>(&input)) {
      return there->data() + row * n;
    }
    if (const auto* gated = std::get_if<Gated>(&input)) {
      Activate(*gated, row * n, n, room);
    } else {
      NormRow(std::get<Normed>(input), row, room);
    }
    return room;
  }

  void Rope(std::span<float> x, int64_t heads, int64_t head_dim, const RopeAngles& angles) {
    const int64_t half = head_dim / 2;
    const int64_t rows = Rows(x.size(), head_dim);
    CHECK(static_cast<int64_t>(angles.cos.size()) * heads == rows * half &&
          angles.cos.size() == angles.sin.size());
    ForRows(rows, head_dim, [&](int64_t row) {
      const int64_t angle = row / heads * half;
      kernels_.rope_head(x.data() + row * head_dim, angles.cos.data() + angle,
                         angles.sin.data() + angle, half);
    });
  }

  static void StoreKv(const float* k, const float* v, const TokenPlace& place,
                      const KvLayer& cache) {
    const int64_t page = place.block_table[static_cast<size_t>(place.position / cache.block_size)];
    const int64_t slot = place.position % cache.block_size;
    for (int64_t h = 0; h < cache.num_kv_heads; ++h) {
      const int64_t to = (page * cache.num_kv_heads + h) * cache.head_bytes();
      cpu::StoreKey(cache, k + h * cache.head_dim, cache.k + to, slot);
      cpu::StoreValue(cache, v + h * cache.head_dim, cache.v + to, slot);
    }
  }

  // Rows [begin, end) of a product, or panels of rows if packed: what a thread takes at a time.
  struct Chunk {
    size_t product = 0;
    int64_t begin = 0;
    int64_t end = 0;
  };

  static quant::PackedLayout LayoutOf(const Weight& weight) {
    return {weight.dtype, weight.rows, weight.cols, weight.block_offset};
  }

  void WidenRow(const Weight& weight, int64_t row, float* out) {
    if (!weight.packed) return kernels_.widen_row(weight, row, out);
    const quant::PackedLayout layout = LayoutOf(weight);
    const auto* data = static_cast<const std::byte*>(weight.data);
    if (weight.panels != nullptr && !weight.panels->AllThere()) {
      const int64_t panel = row / quant::kPanelRows;
      data = weight.panels->ForRow(panel, PanelRoom(weight, 1, /*thread=*/0)) -
             panel * layout.panel_bytes;
    }
    if (weight.dtype == DType::kBF16) return kernels_.widen_bf16_row(data, layout, row, out);
    kernels_.widen_quant_row(weight.dtype, data, layout, row, out);
  }

  // True if both weights take x in the same form.
  static bool SameActivations(const Weight& a, const Weight& b) {
    if (!IsQuantized(a.dtype) || !IsQuantized(b.dtype)) return a.dtype == b.dtype;
    const auto kind = [](const Weight& weight) {
      return quant::WithFormat(weight.dtype,
                               [](auto format) { return std::pair(format.kOffset, format.kMins); });
    };
    return kind(a) == kind(b);
  }

  // Finds room for x as product `index` takes it.
  void AddForm(std::span<const Product> products, size_t index, int64_t tokens) {
    const Weight& weight = products[index].weight;
    for (size_t i = 0; i < index; ++i) {
      if (SameActivations(products[i].weight, weight)) {
        return activations_.push_back(activations_[i]);
      }
    }
    if (memory_.size() <= index) memory_.resize(index + 1);
    forms_.push_back(index);
    activations_.push_back(ReserveForm(memory_[index], weight, tokens));
  }

  static void* ReserveForm(std::vector<CacheLine>& memory, const Weight& weight, int64_t tokens) {
    if (!weight.packed) return Reserve<float>(memory, tokens * weight.cols);
    const int64_t blocks = LayoutOf(weight).blocks;
    if (weight.dtype == DType::kBF16) return Reserve<uint32_t>(memory, tokens * blocks);
    const cpu::TokenTile last = cpu::TileOf(tokens - 1, tokens);
    auto* to = Reserve<cpu::ActivationBlock>(memory, (last.first + last.width) * blocks);
    if (last.tokens < last.width) {
      std::fill_n(to + last.first * blocks, last.width * blocks, cpu::ActivationBlock{});
    }
    return to;
  }

  // Each row of x in all forms while it is in the cache.
  void WriteForms(const Input& x, std::span<const Product> products, int64_t tokens, int groups) {
    const int64_t cols = products.front().weight.cols;
    for (std::vector<CacheLine>& memory : row_memory_) Reserve<float>(memory, cols);
    const int64_t grain = std::max<int64_t>(1, kElementGrain / cols);
    pool_.ParallelFor(tokens, grain, [&](int64_t begin, int64_t end, int thread) {
      auto* room = reinterpret_cast<float*>(row_memory_[static_cast<size_t>(thread)].data());
      for (int64_t t = begin; t < end; ++t) {
        const float* row = Row(x, t, cols, room);
        for (const size_t i : forms_) {
          WriteForm(products[i].weight, row, t, tokens, groups, activations_[i]);
        }
      }
    });
  }

  void WriteForm(const Weight& weight, const float* row, int64_t t, int64_t tokens, int groups,
                 void* to) {
    if (!weight.packed) {
      return kernels_.pack_activations(row, t, tokens, weight, groups, static_cast<float*>(to));
    }
    const int64_t blocks = LayoutOf(weight).blocks;
    if (weight.dtype == DType::kBF16) {
      return kernels_.round_row(row, weight.cols, static_cast<uint32_t*>(to) + t * blocks);
    }
    const cpu::TokenTile tile = cpu::TileOf(t, tokens);
    auto* first = static_cast<cpu::ActivationBlock*>(to) + tile.first * blocks + (t - tile.first);
    kernels_.quantize_row(row, weight.cols, weight.dtype, first, tile.width);
  }

  // Chunks are small enough that threads end together, whatever else the machine does.
  void AddChunks(const Weight& weight, int64_t tokens, size_t product) {
    const int64_t units = weight.packed ? LayoutOf(weight).panels() : weight.rows;
    const int64_t grain = weight.packed ? cpu::kTilePanels : cpu::kLinearRowBlock;
    const int64_t parts = pool_.size() == 1 ? 1 : 8 * pool_.size();
    int64_t each = (units + parts - 1) / parts;
    each = (each + grain - 1) / grain * grain;
    const int64_t unit_weights = weight.cols * (weight.packed ? quant::kPanelRows : 1);
    if (tokens == 1) each = std::max(each, kChunkWeights / unit_weights / grain * grain);
    for (int64_t begin = 0; begin < units; begin += each) {
      chunks_.push_back({.product = product, .begin = begin, .end = std::min(units, begin + each)});
    }
  }

  void RunChunk(const Product& product, const void* x, int64_t tokens, const Chunk& chunk,
                int groups, int thread) {
    const Weight& weight = product.weight;
    if (weight.packed) return RunPanels(product, x, tokens, chunk, groups, thread);
    kernels_.linear({.x = static_cast<const float*>(x),
                     .tokens = tokens,
                     .weight = weight,
                     .bias = product.bias.empty() ? nullptr : product.bias.data(),
                     .groups = groups,
                     .y = product.y.data(),
                     .scratch = &scratch_[static_cast<size_t>(thread)]},
                    chunk.begin, chunk.end);
  }

  // RunChunk of packed weights, as many panels at a time as there are.
  void RunPanels(const Product& product, const void* x, int64_t tokens, const Chunk& chunk,
                 int groups, int thread) {
    const Weight& weight = product.weight;
    const quant::PackedLayout layout = LayoutOf(weight);
    CHECK(groups == 1 || (weight.cols % groups == 0 && layout.blocks % groups == 0));
    const auto run = [&](const std::byte* panels, int64_t begin, int64_t end) {
      const auto args = [&]<class X>(const X* activations) {
        return cpu::PanelArgs<X>{.x = activations,
                                 .tokens = tokens,
                                 .weight = panels,
                                 .layout = &layout,
                                 .bias = product.bias.empty() ? nullptr : product.bias.data(),
                                 .groups = groups,
                                 .y = product.y.data()};
      };
      if (weight.dtype == DType::kBF16) {
        return kernels_.bf16_linear(args(static_cast<const uint32_t*>(x)), begin, end,
                                    panel_sums_[static_cast<size_t>(thread)]);
      }
      kernels_.quant_linear(weight.dtype, args(static_cast<const cpu::ActivationBlock*>(x)), begin,
                            end, panel_sums_[static_cast<size_t>(thread)]);
    };
    if (weight.panels == nullptr || weight.panels->AllThere()) {
      return run(static_cast<const std::byte*>(weight.data), chunk.begin, chunk.end);
    }
    for (int64_t panel = chunk.begin; panel < chunk.end; panel += cpu::kTilePanels) {
      const int64_t count = std::min<int64_t>(cpu::kTilePanels, chunk.end - panel);
      const std::byte* packed =
          weight.panels->ForProduct(panel, count, PanelRoom(weight, count, thread));
      run(packed - panel * layout.panel_bytes, panel, panel + count);
    }
  }

  std::span<std::byte> PanelRoom(const Weight& weight, int64_t panels, int thread) {
    const int64_t bytes = weight.panels->RoomBytes(panels);
    return {Reserve<std::byte>(panel_memory_[static_cast<size_t>(thread)], bytes),
            static_cast<size_t>(bytes)};
  }

  // Tokens of a step that follow each other in one sequence.
  struct TokenRun {
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

  // Weights that a thread takes at a time at least, for one token.
  static constexpr int64_t kChunkWeights = 1 << 16;

  // Memory for n objects; what was there is lost.
  template <class T>
  static T* Reserve(std::vector<CacheLine>& memory, int64_t n) {
    const size_t lines =
        (static_cast<size_t>(n) * sizeof(T) + sizeof(CacheLine) - 1) / sizeof(CacheLine);
    if (memory.size() < lines) memory.resize(lines);
    return reinterpret_cast<T*>(memory.data());
  }

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
  std::vector<TokenRun> runs_;
  // Of Linear: x as each product of a call takes it (floats in PackActivations' order, pairs of
  // bfloat16, or ActivationBlocks), the first product of each form, and the forms' memory.
  std::vector<void*> activations_;
  std::vector<size_t> forms_;
  std::vector<std::vector<CacheLine>> memory_;
  std::vector<Chunk> chunks_;
  // One for each thread.
  std::vector<std::vector<CacheLine>> row_memory_;
  std::vector<std::vector<CacheLine>> panel_memory_;
  std::vector<cpu::LinearScratch> scratch_;
  std::vector<cpu::PanelSums> panel_sums_;
};

// Best first.
std::vector<const KernelTable*> SupportedKernels() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16")) {
      tables.push_back(&cpu::Avx512Bf16Kernels());
    }
    if (__builtin_cpu_supports("avx512vnni")) tables.push_back(&cpu::Avx512VnniKernels());
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

absl::StatusOr<std::unique_ptr<Ops>> MakeCpuOps(int threads, std::string_view variant,
                                                std::span<const int> cpus) {
  if (threads < 1 || threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads must be between 1 and 1024, not ", threads));
  }
  for (const KernelTable* table : SupportedKernels()) {
    if (variant.empty() || variant == table->name) {
      return std::make_unique<CpuOps>(*table, threads, cpus);
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("unsupported: CPU variant \"",
                                                 std::string(variant), "\"; this machine runs ",
                                                 absl::StrJoin(CpuVariants(), ", ")));
}

}  // namespace trireme
