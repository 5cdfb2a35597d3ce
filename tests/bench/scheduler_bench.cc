// The scheduler's share of a step, and of a waiting request: build/release/bin/bench/scheduler.

#include <benchmark/benchmark.h>
#include <malloc.h>
#include <time.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "coordinator/scheduler.h"

namespace trireme {
namespace {

constexpr uint32_t kBlockSize = 32;
constexpr uint32_t kContext = 4096;
constexpr uint32_t kWaiting = 64;
constexpr uint32_t kSteps = 2000;  // every sequence grows by as many tokens

Sequence Request(uint64_t id, uint32_t tokens, uint32_t max_tokens) {
  Sequence sequence;
  sequence.id = id;
  sequence.tenant_name = "tenant" + std::to_string(id % 4);
  sequence.stop_token_ids = {2};
  sequence.sampling.set_temperature(1);
  sequence.sampling.set_seed(id);
  sequence.max_tokens = max_tokens;
  sequence.tokens.resize(tokens);
  for (uint32_t i = 0; i < tokens; ++i) {
    sequence.tokens[i] = static_cast<int32_t>((i * 31 + id * 17) % 1000 + 10);
  }
  return sequence;
}

void Add(Scheduler& scheduler, uint64_t id, uint32_t tokens, uint32_t max_tokens) {
  std::vector<Sequence> siblings;
  siblings.push_back(Request(id, tokens, max_tokens));
  scheduler.Add(std::move(siblings));
}

v1::StepResult Answer(const v1::StepPlan& plan) {
  v1::StepResult result;
  result.set_epoch(plan.epoch());
  result.set_step(plan.step());
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    if (!scheduled.sample()) continue;
    v1::SampledToken& token = *result.add_tokens();
    token.set_sequence_id(scheduled.id());
    token.set_token_id(static_cast<int32_t>((plan.step() * 7 + scheduled.id()) % 1000 + 10));
  }
  return result;
}

// Of this thread: what else runs on the machine does not count.
double CpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Plan and Apply of a step in which all running sequences decode, one plan ahead of the results.
void BM_Step(benchmark::State& state) {
  const auto running = static_cast<uint32_t>(state.range(0));
  SchedulerOptions options;
  options.max_num_seqs = running;
  options.max_num_batched_tokens = 8192;
  options.vocab_size = 2000;
  Scheduler scheduler(options);
  scheduler.GangReady({.epoch = 1,
                       .pipeline_stages = 1,
                       .kv_block_size = kBlockSize,
                       .kv_blocks = running * (2 * kContext / kBlockSize),
                       .swap_blocks = 0,
                       .max_model_len = 2 * kContext,
                       .max_num_batched_tokens = 8192});
  uint64_t id = 0;
  while (id < running) Add(scheduler, ++id, kContext, kContext);
  std::deque<v1::StepResult> results;
  const auto plan_once = [&]() -> bool {
    const std::optional<v1::StepPlan> plan = scheduler.Plan();
    if (plan.has_value()) results.push_back(Answer(*plan));
    return plan.has_value();
  };
  while (scheduler.num_waiting() > 0 || scheduler.TokensAhead(v1::PRIORITY_BATCH) > 0) {
    while (plan_once()) {
    }
    CHECK(scheduler.Apply(std::move(results.front())).ok());
    results.pop_front();
  }
  for (uint32_t i = 0; i < kWaiting; ++i) Add(scheduler, ++id, kContext, kContext);
  CHECK(scheduler.num_running() == running && scheduler.num_waiting() == kWaiting);
  double plan_seconds = 0;
  double apply_seconds = 0;
  for (auto _ : state) {
    // The gang's answer is made outside of the time that counts.
    const double begin = CpuSeconds();
    std::optional<v1::StepPlan> plan = scheduler.Plan();
    const double planned = CpuSeconds();
    CHECK(plan.has_value());
    results.push_back(Answer(*plan));
    const double answered = CpuSeconds();
    absl::StatusOr<StepOutput> output = scheduler.Apply(std::move(results.front()));
    benchmark::DoNotOptimize(output);
    const double applied = CpuSeconds();
    results.pop_front();
    CHECK(output.ok() && output->tokens.size() == running);
    plan_seconds += planned - begin;
    apply_seconds += applied - answered;
    state.SetIterationTime((planned - begin) + (applied - answered));
  }
  CHECK(scheduler.num_running() == running);
  state.counters["plan_us"] = plan_seconds / kSteps * 1e6;
  state.counters["apply_us"] = apply_seconds / kSteps * 1e6;
}
BENCHMARK(BM_Step)
    ->Arg(64)
    ->Arg(128)
    ->Arg(256)
    ->Arg(512)
    ->UseManualTime()
    ->Iterations(kSteps)
    ->Unit(benchmark::kMicrosecond);

// What 10,000 waiting requests hold besides their tokens.
void BM_WaitingMemory(benchmark::State& state) {
  constexpr uint32_t kRequests = 10'000;
  constexpr uint32_t kTokens = 100;
  for (auto _ : state) {
    SchedulerOptions options;
    options.vocab_size = 2000;
    Scheduler scheduler(options);
    const auto allocated = [] {
      const struct mallinfo2 info = mallinfo2();
      return info.uordblks + info.hblkhd;  // large ones are mapped
    };
    const size_t before = allocated();
    for (uint32_t id = 1; id <= kRequests; ++id) Add(scheduler, id, kTokens, kTokens);
    const double bytes = static_cast<double>(allocated() - before) / kRequests;
    state.counters["bytes_per_request"] = bytes;
    state.counters["without_tokens"] = bytes - kTokens * sizeof(int32_t);
  }
}
BENCHMARK(BM_WaitingMemory)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace trireme

BENCHMARK_MAIN();
