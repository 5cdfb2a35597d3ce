// bench/linear: GFLOP/s of Ops::Linear on the shapes of Llama-3.2-1B, beside the machine's peak of
// fused multiply-adds measured in the same run. Weights come from memory, as in a model: each call
// takes another copy, and the copies are far larger than the cache.
//
//   bench/linear [--benchmark_filter=bf16/gate] ...   threads: TRIREME_BENCH_THREADS, or all CPUs

#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/quant/packed.h"
#include "tests/kernels/reference.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace trireme {
namespace {

int Threads() {
  const char* flag = std::getenv("TRIREME_BENCH_THREADS");
  return flag != nullptr ? std::atoi(flag) : static_cast<int>(std::thread::hardware_concurrency());
}

// `rounds` fused multiply-adds of a vector in each of a dozen or more independent chains; returns
// their floating point operations.
#if defined(__x86_64__)
__attribute__((target("avx512f"))) double FmaChains512(int64_t rounds) {
  __m512 a = _mm512_set1_ps(1.0f);
  __m512 b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a;
  const __m512 x = _mm512_set1_ps(0.5f);
  for (int64_t round = 0; round < rounds; ++round) {
    a = _mm512_fmadd_ps(a, x, x), b = _mm512_fmadd_ps(b, x, x), c = _mm512_fmadd_ps(c, x, x);
    d = _mm512_fmadd_ps(d, x, x), e = _mm512_fmadd_ps(e, x, x), f = _mm512_fmadd_ps(f, x, x);
    g = _mm512_fmadd_ps(g, x, x), h = _mm512_fmadd_ps(h, x, x), i = _mm512_fmadd_ps(i, x, x);
    j = _mm512_fmadd_ps(j, x, x), k = _mm512_fmadd_ps(k, x, x), l = _mm512_fmadd_ps(l, x, x);
    // Else the compiler would compute them lane by lane, or not at all.
    __asm__ volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f));
    __asm__ volatile("" : "+v"(g), "+v"(h), "+v"(i), "+v"(j), "+v"(k), "+v"(l));
  }
  for (const __m512& s : {b, c, d, e, f, g, h, i, j, k, l}) a = _mm512_add_ps(a, s);
  benchmark::DoNotOptimize(_mm512_cvtss_f32(a));
  return static_cast<double>(rounds) * 12 * 16 * 2;
}

__attribute__((target("avx2,fma"))) double FmaChains256(int64_t rounds) {
  __m256 sum[12];
  for (__m256& s : sum) s = _mm256_set1_ps(1.0f);
  __m256 x = _mm256_set1_ps(0.5f);
  for (int64_t i = 0; i < rounds; ++i) {
    for (__m256& s : sum) s = _mm256_fmadd_ps(s, x, x);
    __asm__ volatile("" : "+x"(x));
  }
  for (const __m256& s : sum) x = _mm256_add_ps(x, s);
  benchmark::DoNotOptimize(_mm256_cvtss_f32(x));
  return static_cast<double>(rounds) * 12 * 8 * 2;
}
#endif

double FmaChains(int64_t rounds) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return FmaChains512(rounds);
  if (__builtin_cpu_supports("fma")) return FmaChains256(rounds);
#endif
  benchmark::DoNotOptimize(rounds);
  return 0;
}

// GFLOP/s of all threads together, best of several.
double PeakGflops() {
  cpu::ThreadPool pool(Threads());
  double best = 0;
  for (int i = 0; i < 20; ++i) {
    double flops = 0;
    const auto start = std::chrono::steady_clock::now();
    pool.Run([&](int thread) {
      const double own = FmaChains(2'000'000);
      if (thread == 0) flops = own * pool.size();
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, flops / seconds.count() / 1e9);
  }
  return best;
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// In huge pages where the system gives them, as the weights of a model are (PageMemory).
std::unique_ptr<uint16_t, Free> HugePages(size_t bytes) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t size = (bytes + kHuge - 1) / kHuge * kHuge;
  void* data = std::aligned_alloc(kHuge, size);
  madvise(data, size, MADV_HUGEPAGE);
  return std::unique_ptr<uint16_t, Free>(static_cast<uint16_t*>(data));
}

struct Shape {
  const char* name;
  int64_t rows, cols;
  int groups;
};

void RunLinear(benchmark::State& state, const Shape& shape, DType dtype, double peak) {
  const int64_t tokens = state.range(0);
  const auto ops = *MakeCpuOps(Threads());
  const int64_t bytes = quant::IsPacked(dtype)
                            ? quant::PackedLayout(dtype, shape.rows, shape.cols, 0).bytes()
                            : shape.rows * DTypeRowBytes(dtype, shape.cols);
  const int64_t copies = std::max<int64_t>(1, (int64_t{256} << 20) / bytes);
  const auto weights = HugePages(static_cast<size_t>(copies * bytes));
  // As f16, bf16 and f32 small positive values, so that no sum overflows.
  std::fill_n(weights.get(), copies * bytes / 2, uint16_t{0x3c01});
  const std::vector<float> x = RandomFloats(static_cast<size_t>(tokens * shape.cols), 1);
  std::vector<float> y(static_cast<size_t>(tokens * shape.rows));
  int64_t copy = 0;
  for (auto _ : state) {
    const Weight weight{.data = weights.get() + copy * bytes / 2,
                        .dtype = dtype,
                        .rows = shape.rows,
                        .cols = shape.cols,
                        .row_stride = shape.cols,
                        .packed = quant::IsPacked(dtype)};
    ops->Linear(x, weight, {}, shape.groups, y);
    copy = (copy + 1) % copies;
  }
  const double flops = 2.0 * static_cast<double>(tokens * shape.rows * shape.cols);
  const auto rate = [&](double per_call) {
    return benchmark::Counter(per_call, benchmark::Counter::kIsIterationInvariantRate);
  };
  state.counters["GFLOP/s"] = rate(flops / 1e9);
  state.counters["of_peak"] = rate(peak > 0 ? flops / 1e9 / peak : 0);
  state.counters["weights_GB/s"] = rate(static_cast<double>(bytes) / 1e9);
}

void RegisterAll(double peak) {
  static constexpr Shape kShapes[] = {{"qkv_part", 512, 2048, 1},
                                      {"o_proj", 2048, 2048, 8},
                                      {"gate", 8192, 2048, 1},
                                      {"down", 2048, 8192, 8},
                                      {"lm_head", 128256, 2048, 1}};
  for (const DType dtype :
       {DType::kBF16, DType::kF16, DType::kF32, DType::kQ8_0, DType::kQ4_0, DType::kQ5_0,
        DType::kQ4K, DType::kQ5K, DType::kQ6K, DType::kQ2K, DType::kQ3K, DType::kIQ4NL}) {
    for (const Shape& shape : kShapes) {
      const std::string name = std::string(DTypeName(dtype)) + "/" + shape.name;
      auto* bench = benchmark::RegisterBenchmark(name.c_str(), RunLinear, shape, dtype, peak);
      bench->Unit(benchmark::kMillisecond);
      // The CPU time of one thread is proof against other load; that of several is not known here.
      if (Threads() > 1) bench->UseRealTime();
      for (const int64_t tokens : {1, 2, 4, 8, 16, 32, 64, 256}) bench->Arg(tokens);
    }
  }
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const double peak = trireme::PeakGflops();
  benchmark::AddCustomContext("threads", std::to_string(trireme::Threads()));
  benchmark::AddCustomContext("variant", trireme::CpuVariants().front());
  benchmark::AddCustomContext("FMA peak of these threads, GFLOP/s", std::to_string(peak));
  trireme::RegisterAll(peak);
  benchmark::RunSpecifiedBenchmarks();
}
