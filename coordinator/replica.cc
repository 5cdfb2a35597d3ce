#include "coordinator/replica.h"

#include <algorithm>
#include <utility>

namespace trireme {
namespace {

// Of the first steps that also decode, while nobody knows how long a step takes.
constexpr uint32_t kTokensAtUnknownSpeed = 64;

}  // namespace

void Replica::Begin(const GangCapacity& capacity, const std::string& version) {
  gang_deadline_.reset();
  version_ = version;
  capacity_ = capacity;
  scheduler_.GangReady(capacity);
}

std::vector<uint64_t> Replica::End(const std::string& reason, const Wait& wait, bool silent) {
  step_deadline_.reset();
  slow_step_.reset();
  last_step_ms_ = 0;
  draining_.reset();
  finishes_ = false;
  sent_plans_.clear();
  dry_ = true;
  gang_deadline_ = wait.give_up;
  latest_gang_deadline_ = wait.latest;
  lost_reason_ = reason;
  return scheduler_.GangLost(silent);
}

void Replica::WaitUntil(Time give_up) {
  if (!gang_deadline_.has_value()) return;
  gang_deadline_ = std::max(*gang_deadline_, std::min(give_up, latest_gang_deadline_));
}

std::optional<v1::StepPlan> Replica::Plan(Time now) {
  if (draining_.has_value() && !finishes_) return std::nullopt;
  if (options_.step_target.count() > 0) {
    const auto tokens = load_.TokensWithin(static_cast<double>(options_.step_target.count()));
    scheduler_.SetMixedStepTokens(tokens.value_or(kTokensAtUnknownSpeed));
  }
  std::optional<v1::StepPlan> plan = scheduler_.Plan();
  if (!plan.has_value()) {
    if (sent_plans_.empty()) dry_ = true;
    return plan;
  }
  SentPlan sent{.tokens = 0, .gang_had_work = !std::exchange(dry_, false)};
  for (const v1::ScheduledSequence& each : plan->scheduled()) sent.tokens += each.num_tokens();
  sent_plans_.push_back(sent);
  if (!step_deadline_.has_value()) AwaitStep(now);
  return plan;
}

void Replica::AwaitStep(Time now) {
  constexpr double kSlow = 10;  // times the step before
  const std::chrono::milliseconds slow(static_cast<int64_t>(kSlow * last_step_ms_));
  step_deadline_ = now + options_.step_timeout;
  slow_step_ = now + std::max(options_.slow_step, slow);
}

absl::StatusOr<StepOutput> Replica::Apply(v1::StepResult result, Time now) {
  const size_t in_flight = scheduler_.plans_in_flight();
  const Milliseconds took{
      .step = result.step_ms(), .idle = result.idle_ms(), .bubble = result.bubble_ms()};
  absl::StatusOr<StepOutput> output = scheduler_.Apply(std::move(result));
  if (scheduler_.plans_in_flight() < in_flight) CountStep(took, now);
  return output;
}

void Replica::CountStep(const Milliseconds& took, Time now) {
  const SentPlan sent = sent_plans_.front();
  sent_plans_.pop_front();
  step_deadline_.reset();
  slow_step_.reset();
  last_step_ms_ = took.step;
  if (!sent_plans_.empty()) AwaitStep(now);
  load_.AddStep(sent.tokens, took.step);
  total_.step += took.step;
  total_.bubble += took.bubble;
  if (sent.gang_had_work) total_.idle += took.idle;
}

LoadEstimate::Queue Replica::QueueAhead(v1::Priority priority, size_t prompt_tokens) const {
  return {.tokens_ahead = scheduler_.TokensAhead(priority) + prompt_tokens,
          .sequences_ahead = scheduler_.SequencesAhead(priority),
          .running = scheduler_.num_running(),
          .running_max = options_.scheduler.max_num_seqs,
          .tokens_per_step = options_.scheduler.max_num_batched_tokens};
}

void Replica::AddTo(v1::GetStatsResponse& stats) const {
  const SchedulerStats& counts = scheduler_.stats();
  const BlockManager& blocks = scheduler_.blocks();
  const auto tokens = [&](uint32_t count) { return uint64_t{count} * blocks.block_size(); };
  stats.set_gangs(stats.gangs() + (serves() ? 1 : 0));
  stats.set_waiting(stats.waiting() + static_cast<uint32_t>(scheduler_.num_waiting()));
  stats.set_running(stats.running() + static_cast<uint32_t>(scheduler_.num_running()));
  stats.set_paused(stats.paused() + static_cast<uint32_t>(scheduler_.num_paused()));
  stats.set_kv_tokens(stats.kv_tokens() + tokens(blocks.num_blocks()));
  stats.set_kv_tokens_used(stats.kv_tokens_used() +
                           tokens(blocks.num_blocks() - blocks.num_free()));
  stats.set_kv_tokens_cached(stats.kv_tokens_cached() + tokens(blocks.num_cached()));
  stats.set_steps(stats.steps() + counts.steps);
  stats.set_tokens_prefilled(stats.tokens_prefilled() + counts.tokens_prefilled);
  stats.set_tokens_generated(stats.tokens_generated() + counts.tokens_generated);
  stats.set_prefix_tokens_asked(stats.prefix_tokens_asked() + counts.prefix_tokens_asked);
  stats.set_prefix_tokens_hit(stats.prefix_tokens_hit() + counts.prefix_tokens_hit);
  stats.set_preemptions(stats.preemptions() + counts.preemptions);
  stats.set_swaps(stats.swaps() + counts.swaps);
  stats.set_step_ms_total(stats.step_ms_total() + total_.step);
  stats.set_idle_ms_total(stats.idle_ms_total() + total_.idle);
  stats.set_bubble_ms_total(stats.bubble_ms_total() + total_.bubble);
}

}  // namespace trireme
