#include "tests/serving/thread_gang.h"

#include <utility>

namespace trireme {

ThreadGang::ThreadGang(const Options& options) : options_(options) {
  const int size = options.layout.world_size();
  plans_.resize(static_cast<size_t>(size));
  auto world = MakeLoopbackCommunicators(size);
  for (int rank = 0; rank < size; ++rank) {
    threads_.emplace_back(
        [this, rank, own = std::move(world[static_cast<size_t>(rank)])]() mutable {
          Serve(rank, std::move(own));
        });
  }
}

ThreadGang::~ThreadGang() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void ThreadGang::Send(const v1::StepPlan& plan) {
  const std::lock_guard lock(mutex_);
  for (auto& queue : plans_) queue.push_back(plan);
  changed_.notify_all();
}

absl::StatusOr<v1::StepResult> ThreadGang::Receive() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !results_.empty() || !failure_.ok(); });
  if (!failure_.ok()) return failure_;
  v1::StepResult result = std::move(results_.front());
  results_.pop_front();
  return result;
}

std::map<uint64_t, std::vector<std::vector<float>>> ThreadGang::TakeLogits() {
  const std::lock_guard lock(mutex_);
  return std::exchange(logits_, {});
}

bool ThreadGang::NextPlan(int rank, v1::StepPlan& plan) {
  std::unique_lock lock(mutex_);
  auto& queue = plans_[static_cast<size_t>(rank)];
  changed_.wait(lock, [&] { return !queue.empty() || stopping_; });
  if (queue.empty()) return false;
  plan = std::move(queue.front());
  queue.pop_front();
  return true;
}

void ThreadGang::Serve(int rank, std::unique_ptr<Communicator> world) {
  const bool responder = rank == (options_.layout.pp - 1) * options_.layout.tp;
  const auto fail = [this](const absl::Status& status) {
    const std::lock_guard lock(mutex_);
    failure_ = status;
    changed_.notify_all();
  };
  RunnerOptions options;
  options.model_dir = options_.model_dir;
  options.layout = options_.layout;
  options.kv_block_size = options_.kv_block_size;
  options.kv_blocks_max = options_.kv_blocks;
  options.swap_bytes_max = options_.swap_bytes_max;
  options.kv_dtype = options_.kv_dtype;
  if (responder) {
    options.on_logits = [this](uint64_t id, std::span<const float> logits) {
      const std::lock_guard lock(mutex_);
      logits_[id].emplace_back(logits.begin(), logits.end());
    };
  }
  const std::unique_ptr<Ops> ops = std::move(*MakeCpuOps(1));
  const auto runner = ModelRunner::Load(options, ops.get(), world.get());
  if (!runner.ok()) return fail(runner.status());
  v1::StepPlan plan;
  while (NextPlan(rank, plan)) {
    absl::StatusOr<v1::StepResult> result = (*runner)->Step(plan);
    if (!result.ok()) return fail(result.status());
    if (!responder) continue;
    const std::lock_guard lock(mutex_);
    results_.push_back(*std::move(result));
    changed_.notify_all();
  }
  const absl::Status finished = (*runner)->Finish();
  if (!finished.ok()) fail(finished);
}

}  // namespace trireme
