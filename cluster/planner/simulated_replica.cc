#include "cluster/planner/simulated_replica.h"

#include <algorithm>
#include <utility>

namespace trireme {
namespace {

constexpr int64_t kPrefillTokensMin = 2;  // of a step that also decodes
constexpr int64_t kReservedBlocksPart =
    128;  // left free for growth by an admission: one in so many

}  // namespace

int64_t SimulatedReplica::BlocksFor(int64_t tokens) const {
  return (tokens + spec_.block_size - 1) / spec_.block_size;
}

void SimulatedReplica::Use(int64_t blocks, double now_s) {
  counts_.kv_block_seconds += static_cast<double>(used_blocks_) * (now_s - used_since_s_);
  used_since_s_ = now_s;
  used_blocks_ += blocks;
  counts_.kv_blocks_max = std::max(counts_.kv_blocks_max, used_blocks_);
}

void SimulatedReplica::Release(SimulatedSequence& sequence, double now_s) {
  Use(-sequence.blocks, now_s);
  sequence.blocks = 0;
  sequence.computed = 0;
}

std::optional<double> SimulatedReplica::NextDone() const {
  if (in_flight_.empty()) return std::nullopt;
  return in_flight_.front().done_s;
}

void SimulatedReplica::Issue(double now_s) {
  while (in_flight_.size() <= static_cast<size_t>(spec_.stages)) {
    Plan plan;
    if (!Draw(now_s, plan)) return;
    const StepTimes times = spec_.step_times(parts_);
    const double start_s = std::max({now_s, stage_free_s_, tokens_known_s_});
    stage_free_s_ = start_s + times.busy_s;
    // Results come in the order of plans.
    plan.done_s = last_done_s_ = std::max(start_s + times.latency_s, last_done_s_);
    for (const Item& item : plan.items) {
      if (item.samples) sequences_[item.id].known_s = plan.done_s;
    }
    ++counts_.steps;
    in_flight_.push_back(std::move(plan));
  }
}

// The next plan, and its parts for the cost model. False if there is nothing to compute.
bool SimulatedReplica::Draw(double now_s, Plan& plan) {
  ++last_plan_;
  parts_.clear();
  decodes_ = 0;
  decode_context_ = 0;
  tokens_known_s_ = 0;
  preempted_ = false;
  int64_t budget = spec_.max_num_batched_tokens;
  if (!DrawDecodes(now_s, /*any_step=*/false, budget, plan) && in_flight_.size() <= 1) {
    // Too few sequences to fill the pipeline: one of them waits inside the gang.
    DrawDecodes(now_s, /*any_step=*/true, budget, plan);
  }
  if (decodes_ > 0) {
    parts_.push_back({.sequences = decodes_,
                      .tokens = 1,
                      .context = decode_context_ / decodes_,
                      .sampled = decodes_});
  }
  budget = PrefillBudget(budget);
  for (const uint32_t id : running_) {
    if (budget == 0) break;
    const SimulatedSequence& sequence = sequences_[id];
    if (sequence.last_plan != last_plan_ && sequence.to_compute() > 1) Schedule(id, budget, plan);
  }
  while (budget > 0 && !preempted_ && Admit(now_s, budget, plan)) {
  }
  if (!plan.items.empty()) return true;
  --last_plan_;
  return false;
}

// Whether any was scheduled.
bool SimulatedReplica::DrawDecodes(double now_s, bool any_step, int64_t& budget, Plan& plan) {
  const auto stages = static_cast<uint64_t>(spec_.stages);
  size_t limit = running_.size();
  if (stages > 1) {
    const auto count = std::count_if(running_.begin(), running_.end(),
                                     [&](uint32_t id) { return sequences_[id].decodes(); });
    limit = (static_cast<size_t>(count) + stages - 1) / stages;
  }
  for (size_t i = 0; i < running_.size() && limit > 0 && budget > 0; ++i) {
    const uint32_t id = running_[i];
    const SimulatedSequence& sequence = sequences_[id];
    if (!sequence.decodes()) continue;
    if (!any_step && sequence.pending > 0 && sequence.last_plan + stages > last_plan_) continue;
    if (!Grow(id, now_s)) break;
    Schedule(id, budget, plan);
    --limit;
  }
  return !plan.items.empty();
}

// What is left for prompts in a step that also decodes, so that it takes max_step_s: as the engine
// does, by a straight line through the time without prompts and with as many tokens as there may
// be.
int64_t SimulatedReplica::PrefillBudget(int64_t budget) {
  if (decodes_ == 0 || budget == 0 || spec_.max_step_s <= 0) return budget;
  const bool prompts = !waiting_.empty() ||
                       std::any_of(running_.begin(), running_.end(),
                                   [&](uint32_t id) { return sequences_[id].to_compute() > 1; });
  if (!prompts) return budget;
  const double base_s = spec_.step_times(parts_).latency_s;
  parts_.push_back({.sequences = 1, .tokens = budget, .context = budget, .sampled = 1});
  const double full_s = spec_.step_times(parts_).latency_s;
  parts_.pop_back();
  if (full_s <= spec_.max_step_s) return budget;
  const double share = std::max(0.0, (spec_.max_step_s - base_s) / (full_s - base_s));
  const auto tokens = static_cast<int64_t>(share * static_cast<double>(budget));
  return std::min(budget, std::max(tokens, kPrefillTokensMin));
}

bool SimulatedReplica::Admit(double now_s, int64_t& budget, Plan& plan) {
  const auto running_max =
      static_cast<size_t>(std::min(spec_.max_num_seqs, spec_.max_num_batched_tokens));
  if (waiting_.empty() || running_.size() >= running_max) return false;
  const uint32_t id = *waiting_.begin();
  SimulatedSequence& sequence = sequences_[id];
  const int64_t blocks = BlocksFor(sequence.tokens());
  const int64_t reserve = running_.empty() ? 0 : spec_.kv_blocks / kReservedBlocksPart;
  if (used_blocks_ + blocks + reserve > spec_.kv_blocks) return false;
  waiting_.erase(waiting_.begin());
  running_.insert(std::lower_bound(running_.begin(), running_.end(), id), id);
  sequence.blocks = blocks;
  Use(blocks, now_s);
  if (!sequence.admitted_s) sequence.admitted_s = now_s;
  Schedule(id, budget, plan);
  return true;
}

// A block for the next token. False if the sequence itself, the youngest, had to give way.
bool SimulatedReplica::Grow(uint32_t id, double now_s) {
  SimulatedSequence& sequence = sequences_[id];
  const int64_t more = BlocksFor(sequence.tokens()) - sequence.blocks;
  while (used_blocks_ + more > spec_.kv_blocks) {
    // Those whose last token is under way end soon by themselves.
    const auto victim = std::find_if(running_.rbegin(), running_.rend(), [&](uint32_t other) {
      return !sequences_[other].ends_in_flight();
    });
    const uint32_t victim_id = *victim;
    Preempt(victim_id, now_s);
    if (victim_id == id) return false;
  }
  sequence.blocks += more;
  Use(more, now_s);
  return true;
}

void SimulatedReplica::Preempt(uint32_t id, double now_s) {
  running_.erase(std::lower_bound(running_.begin(), running_.end(), id));
  waiting_.insert(id);
  Release(sequences_[id], now_s);
  preempted_ = true;
  ++counts_.preemptions;
}

// Adds up to `budget` tokens of a sequence that has blocks for them.
void SimulatedReplica::Schedule(uint32_t id, int64_t& budget, Plan& plan) {
  SimulatedSequence& sequence = sequences_[id];
  const int64_t count = std::min(sequence.to_compute(), budget);
  const bool samples = count == sequence.to_compute();
  const bool decode = sequence.decodes();
  budget -= count;
  if (sequence.pending > 0) tokens_known_s_ = std::max(tokens_known_s_, sequence.known_s);
  const int64_t begin = sequence.computed;
  sequence.computed += count;
  if (decode) {
    ++decodes_;
    decode_context_ += sequence.computed;
  } else {
    counts_.tokens_prefilled += count;
    counts_.tokens_recomputed +=
        std::max<int64_t>(0, std::min(sequence.computed, sequence.computed_max) - begin);
    parts_.push_back({.sequences = 1,
                      .tokens = count,
                      .context = sequence.computed,
                      .sampled = samples ? 1 : 0});
  }
  sequence.pending += samples ? 1 : 0;
  sequence.last_plan = last_plan_;
  plan.items.push_back({.id = id, .end = sequence.computed, .samples = samples});
}

std::vector<uint32_t> SimulatedReplica::Complete() {
  const Plan plan = std::move(in_flight_.front());
  in_flight_.pop_front();
  std::vector<uint32_t> ended;
  for (const Item& item : plan.items) {
    SimulatedSequence& sequence = sequences_[item.id];
    sequence.computed_max = std::max(sequence.computed_max, item.end);
    if (!item.samples) continue;
    --sequence.pending;
    ++sequence.generated;
    ++counts_.tokens_generated;
    if (!sequence.first_token_s) sequence.first_token_s = plan.done_s;
    if (sequence.generated < sequence.output_tokens) continue;
    sequence.end_s = plan.done_s;
    Release(sequence, plan.done_s);
    running_.erase(std::lower_bound(running_.begin(), running_.end(), item.id));
    ended.push_back(item.id);
  }
  return ended;
}

SimulatedReplica::Lost SimulatedReplica::Lose(double now_s) {
  Lost lost = {.running = std::exchange(running_, {}),
               .waiting = {waiting_.begin(), waiting_.end()}};
  waiting_.clear();
  in_flight_.clear();
  stage_free_s_ = last_done_s_ = now_s;
  last_plan_ = 0;
  for (const std::vector<uint32_t>* ids : {&lost.running, &lost.waiting}) {
    for (const uint32_t id : *ids) {
      SimulatedSequence& sequence = sequences_[id];
      Release(sequence, now_s);
      sequence.pending = 0;
      sequence.last_plan = 0;
    }
  }
  return lost;
}

}  // namespace trireme
