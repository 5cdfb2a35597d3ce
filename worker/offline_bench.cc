#include "worker/offline_bench.h"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <thread>
#include <vector>

#include "base/status_macros.h"
#include "nlohmann/json.hpp"

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

// Gigabytes per second that all threads of all ranks read from memory together, best of five
// passes.
absl::StatusOr<double> MeasureReadBandwidth(int threads, Communicator& world) {
  constexpr size_t kBytesPerThread = size_t{512} << 20;  // far more than any cache share
  ASSIGN_OR_RETURN(const Buffer memory,
                   HostMemory().Allocate(kBytesPerThread * static_cast<size_t>(threads)));
  std::fill_n(memory.data(), memory.size(), std::byte{1});
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    RETURN_IF_ERROR(world.Barrier());
    const auto start = Clock::now();
    std::vector<std::thread> helpers;
    std::vector<uint64_t> sums(static_cast<size_t>(threads));
    const auto read = [&](int t) {
      const auto* begin = reinterpret_cast<const uint64_t*>(memory.data() + static_cast<size_t>(t) *
                                                                                kBytesPerThread);
      sums[static_cast<size_t>(t)] = ReadAll({begin, kBytesPerThread / sizeof(uint64_t)});
    };
    for (int t = 1; t < threads; ++t) helpers.emplace_back(read, t);
    read(0);
    for (std::thread& helper : helpers) helper.join();
    RETURN_IF_ERROR(world.Barrier());
    const double seconds = SecondsSince(start);
    if (std::count(sums.begin(), sums.end(), 0) > 0) return absl::InternalError("nothing was read");
    const double bytes = static_cast<double>(memory.size()) * world.size();
    best = std::max(best, bytes / seconds / 1e9);
  }
  return best;
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

}  // namespace

absl::Status RunOfflineBench(const OfflineBenchOptions& options, ModelRunner& runner, Ops& ops,
                             Communicator& world) {
  BenchPlanner planner(options, runner);
  if (options.prompt_tokens < 1 || options.decode_tokens < 1 || options.batch < 1 ||
      options.chunk < 1 || options.prompt_tokens + options.decode_tokens > runner.max_model_len() ||
      planner.blocks() > runner.pool_blocks()) {
    return absl::InvalidArgumentError(
        "the benchmark's batch of prompt and output tokens does not fit the KV cache; lower them "
        "or raise --kv-memory");
  }
  ASSIGN_OR_RETURN(const double bandwidth, MeasureReadBandwidth(ops.threads(), world));
  RETURN_IF_ERROR(WarmUp(options, planner, runner));
  const auto prefill_start = Clock::now();
  for (int64_t id = 0; id < options.batch; ++id) {
    for (int64_t begin = 0; begin < options.prompt_tokens; begin += options.chunk) {
      const int64_t end = std::min(begin + options.chunk, options.prompt_tokens);
      RETURN_IF_ERROR(runner.Step(planner.Prefill(static_cast<uint64_t>(id), begin, end)).status());
    }
  }
  const double prefill_s = SecondsSince(prefill_start);
  const double prefill_sampling_ms = runner.sampling_ms();
  std::vector<double> step_s;
  for (int64_t i = 1; i < options.decode_tokens; ++i) {
    const auto start = Clock::now();
    for (int64_t part = 0; part < options.micro_batches; ++part) {
      RETURN_IF_ERROR(runner.Step(planner.Decode(part)).status());
    }
    step_s.push_back(SecondsSince(start));
  }
  RETURN_IF_ERROR(runner.Finish());
  // Only the responder samples; with pipeline stages that is not rank 0.
  double sampling_ms = runner.sampling_ms() - prefill_sampling_ms;
  RETURN_IF_ERROR(
      world.Broadcast(std::as_writable_bytes(std::span(&sampling_ms, 1)), runner.responder()));
  std::vector<uint64_t> shard_bytes(static_cast<size_t>(world.size()));
  const uint64_t mine = runner.load_report().shard_bytes;
  RETURN_IF_ERROR(world.AllGather(std::as_bytes(std::span(&mine, 1)),
                                  std::as_writable_bytes(std::span(shard_bytes))));
  if (world.rank() != 0) return absl::OkStatus();
  const double median_s = step_s.empty() ? 0 : Median(step_s);
  double weight_bytes = 0;
  for (const uint64_t bytes : shard_bytes) weight_bytes += static_cast<double>(bytes);
  const nlohmann::json report = {
      {"ranks", world.size()},
      {"threads_per_rank", ops.threads()},
      {"device", std::string(ops.name())},
      {"communicator", std::string(world.name())},
      {"batch", options.batch},
      {"micro_batches", options.micro_batches},
      {"prompt_tokens", options.prompt_tokens},
      {"decode_tokens", options.decode_tokens},
      {"weight_bytes", weight_bytes},
      {"read_bandwidth_gb_s", bandwidth},
      {"prefill_tokens_per_s",
       static_cast<double>(options.prompt_tokens * options.batch) / prefill_s},
      {"decode_step_ms", median_s * 1e3},
      {"decode_sampling_ms", step_s.empty() ? 0 : sampling_ms / static_cast<double>(step_s.size())},
      {"decode_tokens_per_s", median_s > 0 ? static_cast<double>(options.batch) / median_s : 0},
      {"decode_weight_gb_s", median_s > 0 ? weight_bytes / median_s / 1e9 : 0}};
  std::cout << report.dump() << std::endl;
  return absl::OkStatus();
}

}  // namespace trireme
