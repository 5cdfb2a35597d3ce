// What this machine's cores and memory can do at most, to hold measured speeds against:
//   peaks [THREADS]      prints one JSON object
// Read bandwidth of memory; fused multiply-adds of float32; products of int8 and of bf16 pairs with
// the dot-product instructions, where the CPU has them (0 otherwise). All threads together.

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

namespace {

constexpr int kPasses = 9;
constexpr int kChains = 12;  // independent sums, more than latency x ports
constexpr int64_t kRounds = 4'000'000;
constexpr size_t kBytesPerThread = size_t{256} << 20;  // far more than any cache share

// Keeps a value, and what led to it, from being optimised away.
template <typename T>
void Use(T& value) {
  asm volatile("" : "+m"(value) : : "memory");
}

// Seconds of the fastest of some passes in which every thread does `work`.
double BestSeconds(int threads, const std::function<void(int)>& work) {
  double best = 1e30;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> helpers;
    for (int t = 1; t < threads; ++t) helpers.emplace_back(work, t);
    work(0);
    for (std::thread& helper : helpers) helper.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::min(best, seconds.count());
  }
  return best;
}

double ReadGigabytesPerSecond(int threads) {
  constexpr size_t kWords = kBytesPerThread / sizeof(uint64_t);
  std::vector<uint64_t> memory(kWords * static_cast<size_t>(threads), 1);
  const auto read = [&](int t) {
    const uint64_t* words = memory.data() + static_cast<size_t>(t) * kWords;
    uint64_t sums[16] = {};
    for (size_t i = 0; i < kWords; i += 16) {
      for (size_t lane = 0; lane < 16; ++lane) sums[lane] += words[i + lane];
    }
    Use(sums);
  };
  return static_cast<double>(kBytesPerThread) * threads / BestSeconds(threads, read) / 1e9;
}

// The loops differ in one instruction, which must be known at compile time: the chains stay in
// registers. The empty asm keeps the compiler from seeing that all chains are the same.
__attribute__((target("avx2,fma"))) void FmaAvx2(int /*thread*/) {
  __m256 sums[kChains] = {};
  const auto a = _mm256_set1_ps(1e-9f);
  for (int64_t i = 0; i < kRounds; ++i) {
    for (__m256& sum : sums) {
      sum = _mm256_fmadd_ps(a, a, sum);
      asm volatile("" : "+v"(sum));
    }
  }
}

__attribute__((target("avx512f"))) void FmaAvx512(int /*thread*/) {
  __m512 sums[kChains] = {};
  const auto a = _mm512_set1_ps(1e-9f);
  for (int64_t i = 0; i < kRounds; ++i) {
    for (__m512& sum : sums) {
      sum = _mm512_fmadd_ps(a, a, sum);
      asm volatile("" : "+v"(sum));
    }
  }
}

__attribute__((target("avx512f,avx512vnni"))) void Vnni(int /*thread*/) {
  __m512i sums[kChains] = {};
  const auto a = _mm512_set1_epi8(1);
  for (int64_t i = 0; i < kRounds; ++i) {
    for (__m512i& sum : sums) {
      sum = _mm512_dpbusd_epi32(sum, a, a);
      asm volatile("" : "+v"(sum));
    }
  }
}

__attribute__((target("avx512f,avx512bf16"))) void Bf16(int /*thread*/) {
  __m512 sums[kChains] = {};
  const auto a = (__m512bh)_mm512_set1_epi16(0x3000);
  for (int64_t i = 0; i < kRounds; ++i) {
    for (__m512& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, a, a);
      asm volatile("" : "+v"(sum));
    }
  }
}

// Multiplications and additions of a loop whose instruction does `macs` of each, in 1e9 per second.
double GigaOps(int threads, int macs, const std::function<void(int)>& loop) {
  const double operations = 2.0 * macs * kChains * static_cast<double>(kRounds) * threads;
  return operations / BestSeconds(threads, loop) / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
  const int online = static_cast<int>(std::thread::hardware_concurrency());
  const int threads = argc > 1 ? std::atoi(argv[1]) : online;
  if (threads < 1 || threads > 1024) {
    std::fprintf(stderr, "peaks: THREADS must be from 1 to 1024\n");
    return 1;
  }
  double f32 = 0;
  double int8 = 0;
  double bf16 = 0;
  if (__builtin_cpu_supports("avx512f")) {
    f32 = GigaOps(threads, 16, FmaAvx512);
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    f32 = GigaOps(threads, 8, FmaAvx2);
  }
  if (__builtin_cpu_supports("avx512vnni")) int8 = GigaOps(threads, 64, Vnni);
  if (__builtin_cpu_supports("avx512bf16")) bf16 = GigaOps(threads, 32, Bf16);
  std::printf(
      "{\"threads\": %d, \"read_gb_s\": %.2f, \"f32_gflop_s\": %.1f, \"int8_gop_s\": %.1f, "
      "\"bf16_gflop_s\": %.1f}\n",
      threads, ReadGigabytesPerSecond(threads), f32, int8, bf16);
  return 0;
}
