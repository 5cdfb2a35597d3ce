#include "worker/memory_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <thread>
#include <vector>

#include "base/status_macros.h"
#include "worker/agreement.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Reads the whole span; the sum keeps the compiler from dropping the loads.
uint64_t ReadAll(std::span<const uint64_t> words) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= words.size(); i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

// The ranks begin and end each pass together, so that none measures while others are idle. `ready`:
// whether this rank can work at all.
absl::StatusOr<MemoryBandwidth> BestBandwidth(const absl::Status& ready, size_t bytes, int passes,
                                              Communicator& world,
                                              const std::function<absl::Status()>& work) {
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  MemoryBandwidth best;
  absl::Status worked = ready;
  for (int pass = 0; pass < passes; ++pass) {
    RETURN_IF_ERROR(Agree(worked, world));
    const auto start = Clock::now();
    worked = work();
    best.own = std::max(best.own, gigabytes / SecondsSince(start));
    RETURN_IF_ERROR(world.Barrier());
    best.all = std::max(best.all, gigabytes * world.size() / SecondsSince(start));
  }
  RETURN_IF_ERROR(Agree(worked, world));
  return best;
}

// Runs work(thread) on so many threads, this one included.
void OnThreads(int threads, const std::function<void(size_t)>& work) {
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads; ++t) helpers.emplace_back(work, static_cast<size_t>(t));
  work(0);
  for (std::thread& helper : helpers) helper.join();
}

absl::StatusOr<MemoryBandwidth> MeasureReads(const BandwidthTest& test, int threads,
                                             Communicator& world) {
  const size_t bytes = test.bytes_per_thread * static_cast<size_t>(threads);
  const absl::StatusOr<Buffer> memory = HostMemory().Allocate(bytes);
  const auto part = [&](size_t t) { return memory->data() + t * test.bytes_per_thread; };
  const auto fill = [&](size_t t) { std::fill_n(part(t), test.bytes_per_thread, std::byte{1}); };
  if (memory.ok()) OnThreads(threads, fill);
  return BestBandwidth(memory.status(), bytes, test.passes, world, [&] {
    std::vector<uint64_t> sums(static_cast<size_t>(threads));
    OnThreads(threads, [&](size_t t) {
      const auto* begin = reinterpret_cast<const uint64_t*>(part(t));
      sums[t] = ReadAll({begin, test.bytes_per_thread / sizeof(uint64_t)});
    });
    return std::count(sums.begin(), sums.end(), 0) > 0 ? absl::InternalError("nothing was read")
                                                       : absl::OkStatus();
  });
}

absl::StatusOr<MemoryBandwidth> MeasureCopies(const BandwidthTest& test, Memory& memory,
                                              Communicator& world) {
  constexpr int kCopies = 16;  // so long that the wait for them counts for nothing
  const absl::StatusOr<Buffer> from = memory.Allocate(test.copy_bytes);
  const absl::StatusOr<Buffer> to = memory.Allocate(test.copy_bytes);
  const absl::Status& ready = from.ok() ? to.status() : from.status();
  const size_t bytes = 2 * test.copy_bytes * kCopies;
  return BestBandwidth(ready, bytes, test.passes, world, [&]() -> absl::Status {
    for (int i = 0; i < kCopies; ++i) {
      RETURN_IF_ERROR(memory.Copy(to->data(), from->data(), test.copy_bytes));
    }
    std::byte last{};
    return memory.CopyOut(std::span(&last, 1), to->data());
  });
}

}  // namespace

absl::StatusOr<MemoryBandwidth> MeasureMemoryBandwidth(const BandwidthTest& test, Ops& ops,
                                                       Communicator& world) {
  return ops.memory().on_host() ? MeasureReads(test, ops.threads(), world)
                                : MeasureCopies(test, ops.memory(), world);
}

}  // namespace trireme
