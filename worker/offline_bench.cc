#include "worker/offline_bench.h"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <optional>
#include <vector>

#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/memory_bandwidth.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Plans `batch` equal sequences, as a scheduler would.
class BenchPlanner {
 public:
  BenchPlanner(const OfflineBenchOptions& options, const ModelRunner& runner)
      : options_(options), vocab_(runner.config().vocab_size) {
    const int64_t tokens = options.prompt_tokens + options.decode_tokens;
    const int64_t block_size = runner.kv_cache().block_size();
    blocks_each_ = (tokens + block_size - 1) / block_size;
  }

  int64_t blocks() const { return blocks_each_ * options_.batch; }

  // The next chunk of sequence `id`'s prompt.
  v1::StepPlan Prefill(uint64_t id, int64_t begin, int64_t end) {
    v1::StepPlan plan = NextPlan();
    v1::ScheduledSequence& scheduled = *plan.add_scheduled();
    if (begin == 0) {
      AddSequence(id, plan);
      for (int64_t block = 0; block < blocks_each_; ++block) {
        scheduled.add_new_block_ids(
            static_cast<uint32_t>(static_cast<int64_t>(id) * blocks_each_ + block));
      }
    }
    scheduled.set_id(id);
    scheduled.set_num_tokens(static_cast<uint32_t>(end - begin));
    scheduled.set_sample(end == options_.prompt_tokens);
    return plan;
  }

  // Ends sequence `id`.
  v1::StepPlan Finish(uint64_t id) {
    v1::StepPlan plan = NextPlan();
    plan.add_finished_ids(id);
    return plan;
  }

  // One token of every sequence of a part of the batch.
  v1::StepPlan Decode(int64_t part) {
    v1::StepPlan plan = NextPlan();
    for (int64_t id = part; id < options_.batch; id += options_.micro_batches) {
      v1::ScheduledSequence& scheduled = *plan.add_scheduled();
      scheduled.set_id(static_cast<uint64_t>(id));
      scheduled.set_num_tokens(1);
      scheduled.set_sample(true);
    }
    return plan;
  }

 private:
  v1::StepPlan NextPlan() {
    v1::StepPlan plan;
    plan.set_epoch(1);
    plan.set_step(++step_);
    return plan;
  }

  void AddSequence(uint64_t id, v1::StepPlan& plan) const {
    v1::NewSequence& added = *plan.add_new_sequences();
    added.set_id(id);
    for (int64_t i = 0; i < options_.prompt_tokens; ++i) {
      added.add_token_ids(
          static_cast<int32_t>((i * 7919 + static_cast<int64_t>(id) * 104729) % vocab_));
    }
    added.set_prompt_tokens(static_cast<uint32_t>(options_.prompt_tokens));
    added.mutable_sampling()->set_repetition_penalty(1.0f);
    added.mutable_sampling()->set_temperature(options_.temperature);
    added.mutable_sampling()->set_top_p(options_.top_p);
    added.mutable_sampling()->set_seed(id);
  }

  const OfflineBenchOptions options_;
  const int64_t vocab_;
  int64_t blocks_each_ = 0;
  uint64_t step_ = 0;
};

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// A chunk of a prompt: what is allocated by the first step stays for all.
absl::Status WarmUp(const OfflineBenchOptions& options, BenchPlanner& planner,
                    ModelRunner& runner) {
  const int64_t tokens = std::min(options.chunk, options.prompt_tokens);
  RETURN_IF_ERROR(runner.Step(planner.Prefill(0, 0, tokens)).status());
  return runner.Step(planner.Finish(0)).status();
}

absl::Status CheckFits(const OfflineBenchOptions& options, const BenchPlanner& planner,
                       const ModelRunner& runner) {
  if (options.prompt_tokens < 1 || options.decode_tokens < 1 || options.batch < 1 ||
      options.chunk < 1 || options.prompt_tokens + options.decode_tokens > runner.max_model_len() ||
      planner.blocks() > runner.pool_blocks()) {
    return absl::InvalidArgumentError(
        "the benchmark's batch of prompt and output tokens does not fit the KV cache; lower them "
        "or raise --kv-memory");
  }
  return absl::OkStatus();
}

absl::StatusOr<double> PrefillSeconds(const OfflineBenchOptions& options, BenchPlanner& planner,
                                      ModelRunner& runner) {
  const auto start = Clock::now();
  for (int64_t id = 0; id < options.batch; ++id) {
    for (int64_t begin = 0; begin < options.prompt_tokens; begin += options.chunk) {
      const int64_t end = std::min(begin + options.chunk, options.prompt_tokens);
      RETURN_IF_ERROR(runner.Step(planner.Prefill(static_cast<uint64_t>(id), begin, end)).status());
    }
  }
  return SecondsSince(start);
}

struct DecodeTimes {
  std::vector<double> step_s;
  std::optional<double> queued_ms;  // of a step among steps that are queued at once
};

absl::Status CollectTo(size_t under_way, ModelRunner& runner) {
  while (runner.under_way() > under_way) RETURN_IF_ERROR(runner.Collect().status());
  return absl::OkStatus();
}

// As the service computes plans that come in time.
absl::StatusOr<DecodeTimes> Decode(const OfflineBenchOptions& options, bool queued,
                                   BenchPlanner& planner, ModelRunner& runner) {
  DecodeTimes times;
  for (int64_t i = 1; i < options.decode_tokens; ++i) {
    const bool follows = runner.under_way() == runner.plans_ahead();
    const auto start = Clock::now();
    for (int64_t part = 0; part < options.micro_batches; ++part) {
      RETURN_IF_ERROR(runner.Launch(planner.Decode(part)));
      RETURN_IF_ERROR(CollectTo(runner.plans_ahead(), runner));
    }
    if (follows) times.step_s.push_back(SecondsSince(start));
    if (!queued || i != (options.decode_tokens + 1) / 2) continue;  // of a context of mean length
    RETURN_IF_ERROR(CollectTo(0, runner));
    if (++i == options.decode_tokens) break;
    RETURN_IF_ERROR(runner.Step(planner.Decode(0)).status());
    ASSIGN_OR_RETURN(times.queued_ms, runner.RepeatStep(20));
  }
  RETURN_IF_ERROR(CollectTo(0, runner));
  return times;
}

// What a rank holds, and what it reads in a decode step of mean length.
struct RankBytes {
  double weights = 0;
  double step = 0;
};

absl::StatusOr<RankBytes> BytesOfAll(const OfflineBenchOptions& options, const ModelRunner& runner,
                                     Communicator& world) {
  const LoadReport& load = runner.load_report();
  const double context =
      static_cast<double>(options.prompt_tokens) + static_cast<double>(options.decode_tokens) / 2;
  const double token_bytes = static_cast<double>(runner.block_bytes()) /
                             static_cast<double>(runner.kv_cache().block_size());
  const RankBytes mine{.weights = static_cast<double>(load.shard_bytes),
                       .step = static_cast<double>(load.shard_bytes - load.lookup_bytes) +
                               static_cast<double>(options.batch) * context * token_bytes};
  std::vector<RankBytes> ranks(static_cast<size_t>(world.size()));
  RETURN_IF_ERROR(world.AllGather(std::as_bytes(std::span(&mine, 1)),
                                  std::as_writable_bytes(std::span(ranks))));
  RankBytes all;
  for (const RankBytes& rank : ranks) {
    all.weights += rank.weights;
    all.step += rank.step;
  }
  return all;
}

}  // namespace

absl::Status RunOfflineBench(const OfflineBenchOptions& options, ModelRunner& runner, Ops& ops,
                             Communicator& world) {
  using nlohmann::json;
  BenchPlanner planner(options, runner);
  RETURN_IF_ERROR(CheckFits(options, planner, runner));
  const bool on_host = ops.memory().on_host();
  ASSIGN_OR_RETURN(const MemoryBandwidth bandwidth, MeasureMemoryBandwidth({}, ops, world));
  RETURN_IF_ERROR(WarmUp(options, planner, runner));
  ASSIGN_OR_RETURN(const double prefill_s, PrefillSeconds(options, planner, runner));
  const double prefill_sampling_ms = runner.sampling_ms();
  const bool queued = !on_host && runner.shard().first_stage && runner.shard().last_stage;
  ASSIGN_OR_RETURN(const DecodeTimes times, Decode(options, queued, planner, runner));
  RETURN_IF_ERROR(runner.Finish());
  // Only the responder samples; with pipeline stages that is not rank 0.
  double sampling_ms = runner.sampling_ms() - prefill_sampling_ms;
  RETURN_IF_ERROR(
      world.Broadcast(std::as_writable_bytes(std::span(&sampling_ms, 1)), runner.responder()));
  ASSIGN_OR_RETURN(const RankBytes bytes, BytesOfAll(options, runner, world));
  if (world.rank() != 0) return absl::OkStatus();
  const double step_s = times.step_s.empty() ? 0 : Median(times.step_s);
  const double step_sampling_ms =
      step_s > 0 ? sampling_ms / static_cast<double>(options.decode_tokens - 1) : 0;
  json report = {
      {"ranks", world.size()},
      {"threads_per_rank", ops.threads()},
      {"device", std::string(ops.name())},
      {"communicator", std::string(world.name())},
      {"batch", options.batch},
      {"micro_batches", options.micro_batches},
      {"prompt_tokens", options.prompt_tokens},
      {"decode_tokens", options.decode_tokens},
      {"weight_bytes", bytes.weights},
      {on_host ? "read_bandwidth_gb_s" : "copy_bandwidth_gb_s", bandwidth.all},
      {"prefill_tokens_per_s",
       static_cast<double>(options.prompt_tokens * options.batch) / prefill_s},
      {"decode_step_ms", step_s * 1e3},
      {"decode_sampling_ms", step_sampling_ms},
      {"decode_tokens_per_s", step_s > 0 ? static_cast<double>(options.batch) / step_s : 0},
      {"decode_weight_gb_s", step_s > 0 ? bytes.weights / step_s / 1e9 : 0},
      {"decode_bytes", nullptr},
      {"decode_roofline_share", nullptr},
      {"decode_gap_ms", nullptr}};
  if (step_s > 0 && runner.config().num_experts == 0) {
    report["decode_bytes"] = bytes.step;
    report["decode_roofline_share"] = bytes.step / step_s / 1e9 / bandwidth.all;
  }
  if (times.queued_ms) {
    report["decode_gap_ms"] = step_s * 1e3 - *times.queued_ms - step_sampling_ms;
  }
  std::cout << report.dump() << std::endl;
  return absl::OkStatus();
}

}  // namespace trireme
