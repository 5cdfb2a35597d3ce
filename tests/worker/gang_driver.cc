#include "tests/worker/gang_driver.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/status_macros.h"
#include "kernels/ops.h"

namespace trireme {
namespace {

// A request on its way.
struct Progress {
  int64_t computed = 0;
  int64_t known = 0;  // tokens: prompt and output
  int64_t blocks = 0;
  bool added = false;
};

class TestPlanner {
 public:
  TestPlanner(const std::vector<TestRequest>& requests, const DriverOptions& options)
      : requests_(requests),
        progress_(requests.size()),
        chunk_(options.chunk),
        groups_(static_cast<size_t>(options.micro_batches)) {}

  bool Done(size_t i) const {
    const Progress& p = progress_[i];
    return p.added &&
           p.known - static_cast<int64_t>(requests_[i].prompt.size()) >= requests_[i].steps;
  }
  bool AllDone() const {
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (!Done(i)) return false;
    }
    return true;
  }

  v1::StepPlan Next() {
    v1::StepPlan plan;
    plan.set_epoch(1);
    plan.set_step(static_cast<uint64_t>(++step_));
    for (size_t i = static_cast<size_t>(step_) % groups_; i < requests_.size(); i += groups_) {
      if (!Done(i) && step_ > requests_[i].start_after) Schedule(i, plan);
    }
    return plan;
  }

 private:
  void Schedule(size_t i, v1::StepPlan& plan) {
    const TestRequest& request = requests_[i];
    Progress& p = progress_[i];
    v1::ScheduledSequence& scheduled = *plan.add_scheduled();
    scheduled.set_id(i);
    if (!p.added) {
      v1::NewSequence& added = *plan.add_new_sequences();
      added.set_id(i);
      added.mutable_token_ids()->Assign(request.prompt.begin(), request.prompt.end());
      added.set_prompt_tokens(static_cast<uint32_t>(request.prompt.size()));
      *added.mutable_sampling() = request.sampling;
      p.added = true;
      p.known = static_cast<int64_t>(request.prompt.size());
    }
    const int64_t count = std::min(chunk_, p.known - p.computed);
    p.computed += count;
    scheduled.set_num_tokens(static_cast<uint32_t>(count));
    scheduled.set_sample(p.computed == p.known);
    for (; p.blocks * block_size_ < p.computed; ++p.blocks) {
      scheduled.add_new_block_ids(static_cast<uint32_t>(next_block_++));
    }
    if (scheduled.sample()) ++p.known;
  }

  const std::vector<TestRequest>& requests_;
  std::vector<Progress> progress_;
  const int64_t chunk_;
  const size_t groups_;
  const int64_t block_size_ = RunnerOptions{}.kv_block_size;
  int64_t step_ = 0;
  int64_t next_block_ = 0;
};

}  // namespace

bool TestOutput::operator==(const TestOutput& other) const {
  return tokens == other.tokens && SameLogits(other);
}

bool TestOutput::SameLogits(const TestOutput& other) const {
  if (logits.size() != other.logits.size()) return false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i].size() != other.logits[i].size() ||
        std::memcmp(logits[i].data(), other.logits[i].data(), logits[i].size() * sizeof(float)) !=
            0) {
      return false;
    }
  }
  return true;
}

std::vector<v1::StepPlan> MakePlans(const DriverOptions& options,
                                    const std::vector<TestRequest>& requests) {
  TestPlanner planner(requests, options);
  std::vector<v1::StepPlan> plans;
  while (!planner.AllDone()) plans.push_back(planner.Next());
  return plans;
}

absl::StatusOr<GangOutput> RunPlansOnRank(const DriverOptions& options,
                                          const std::vector<v1::StepPlan>& plans,
                                          Communicator& world) {
  GangOutput output;
  Device device;
  if (options.make_device) {
    ASSIGN_OR_RETURN(device, options.make_device(world.rank()));
  } else {
    ASSIGN_OR_RETURN(device.ops, MakeCpuOps(options.threads));
  }
  RunnerOptions runner_options;
  runner_options.link = device.link;
  runner_options.sampler = device.sampler;
  runner_options.model_dir = options.model_dir;
  runner_options.layout = options.layout;
  runner_options.max_num_batched_tokens = options.max_batched_tokens;
  runner_options.kv_memory.bytes = options.kv_bytes;
  runner_options.kv_dtype = options.kv_dtype;
  runner_options.float32 = options.float32;
  runner_options.mapped = options.mapped;
  runner_options.kv_blocks_max = options.kv_blocks_max;
  runner_options.swap_bytes_max = options.swap_bytes_max;
  if (options.logits) {
    runner_options.on_logits = [&](uint64_t id, std::span<const float> logits) {
      output.sequences[id].logits.emplace_back(logits.begin(), logits.end());
      options.on_logits(world.rank());
    };
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelRunner> runner,
                   ModelRunner::Load(runner_options, device.ops.get(), &world));
  const auto collect = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(v1::StepResult result, runner->Collect());
    for (const v1::SampledToken& token : result.tokens()) {
      output.sequences[token.sequence_id()].tokens.push_back(token.token_id());
    }
    output.results.push_back(std::move(result));
    options.after_step(world.rank(), output.results.size());
    return options.lockstep ? world.Barrier() : absl::OkStatus();
  };
  output.plans_ahead = runner->plans_ahead();
  const size_t ahead = options.ahead && !options.lockstep ? runner->plans_ahead() : 0;
  for (const v1::StepPlan& plan : plans) {
    RETURN_IF_ERROR(runner->Launch(plan));
    while (runner->under_way() > ahead) RETURN_IF_ERROR(collect());
  }
  while (runner->under_way() > 0) RETURN_IF_ERROR(collect());
  RETURN_IF_ERROR(runner->Finish());
  return output;
}

absl::StatusOr<GangOutput> RunPlans(const DriverOptions& options,
                                    const std::vector<v1::StepPlan>& plans, int rank) {
  const int size = options.layout.world_size();
  auto world = MakeLoopbackCommunicators(size);
  std::vector<absl::StatusOr<GangOutput>> results(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int i = 0; i < size; ++i) {
    threads.emplace_back([&, i] {
      const std::unique_ptr<Communicator> own = std::move(world[static_cast<size_t>(i)]);
      results[static_cast<size_t>(i)] = RunPlansOnRank(options, plans, *own);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return std::move(results[static_cast<size_t>(rank < 0 ? size - options.layout.tp : rank)]);
}

namespace {

absl::StatusOr<std::vector<TestOutput>> InOrder(absl::StatusOr<GangOutput> output, size_t count) {
  if (!output.ok()) return output.status();
  std::vector<TestOutput> outputs;
  for (size_t i = 0; i < count; ++i) outputs.push_back(std::move(output->sequences[i]));
  return outputs;
}

}  // namespace

absl::StatusOr<std::vector<TestOutput>> DriveRank(const DriverOptions& options,
                                                  const std::vector<TestRequest>& requests,
                                                  Communicator& world) {
  return InOrder(RunPlansOnRank(options, MakePlans(options, requests), world), requests.size());
}

absl::StatusOr<std::vector<TestOutput>> DriveGang(const DriverOptions& options,
                                                  const std::vector<TestRequest>& requests,
                                                  int rank) {
  return InOrder(RunPlans(options, MakePlans(options, requests), rank), requests.size());
}

v1::StepSampling GreedySampling() {
  v1::StepSampling sampling;
  sampling.set_top_p(1.0f);
  sampling.set_repetition_penalty(1.0f);
  return sampling;
}

}  // namespace trireme
