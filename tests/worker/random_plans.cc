#include "tests/worker/random_plans.h"

#include <algorithm>
#include <utility>

namespace trireme {
namespace {

v1::StepSampling RandomSampling(std::mt19937& random) {
  v1::StepSampling sampling = GreedySampling();
  if (random() % 3 > 0) {
    sampling.set_temperature(1.2f);
    sampling.set_seed(random());
  }
  if (random() % 3 == 0) sampling.set_top_k(20);
  if (random() % 3 == 0) sampling.set_top_p(0.9f);
  if (random() % 3 == 0) sampling.set_logprobs(random() % 4);
  if (random() % 6 == 0) sampling.set_prompt_logprobs(1);
  if (random() % 4 == 0) sampling.set_repetition_penalty(1.5f);
  if (random() % 6 == 0) sampling.set_frequency_penalty(0.5f);
  return sampling;
}

}  // namespace

RandomPlans::RandomPlans(unsigned seed) : random_(seed) {
  for (uint32_t block = 0; block < kBlocks; ++block) free_.push_back(block);
}

std::vector<v1::StepPlan> RandomPlans::Make(size_t count) {
  std::vector<v1::StepPlan> plans;
  while (plans.size() < count) {
    v1::StepPlan& plan = plans.emplace_back();
    plan.set_epoch(1);
    plan.set_step(plans.size());
    EndSome(plan);
    if (running_.size() < 5 && random_() % 2 == 0) Begin(plan);
    int64_t room = kStepTokens;
    for (auto& [id, sequence] : running_) {
      if (room > 0 && random_() % 8 > 0) Schedule(id, sequence, room, plan);
    }
  }
  return plans;
}

void RandomPlans::EndSome(v1::StepPlan& plan) {
  for (auto it = running_.begin(); it != running_.end();) {
    if (it->second.known < it->second.length && random_() % 24 > 0) {
      ++it;
      continue;
    }
    plan.add_finished_ids(it->first);
    free_.insert(free_.end(), it->second.blocks.begin(), it->second.blocks.end());
    it = running_.erase(it);
  }
}

void RandomPlans::Begin(v1::StepPlan& plan) {
  const uint64_t id = random_() % 8;
  if (running_.contains(id)) return;
  Running& sequence = running_[id];
  sequence.known = 1 + static_cast<int64_t>(random_() % 40);
  sequence.length = sequence.known + 1 + static_cast<int64_t>(random_() % 12);
  v1::NewSequence& added = *plan.add_new_sequences();
  added.set_id(id);
  for (int64_t i = 0; i < sequence.known; ++i) {
    added.add_token_ids(static_cast<int32_t>(random_() % 150));
  }
  added.set_prompt_tokens(static_cast<uint32_t>(sequence.known));
  *added.mutable_sampling() = RandomSampling(random_);
}

void RandomPlans::Schedule(uint64_t id, Running& sequence, int64_t& room, v1::StepPlan& plan) {
  const int64_t count = std::min({sequence.known - sequence.computed, room, int64_t{16}});
  room -= count;
  sequence.computed += count;
  v1::ScheduledSequence& scheduled = *plan.add_scheduled();
  scheduled.set_id(id);
  scheduled.set_num_tokens(static_cast<uint32_t>(count));
  scheduled.set_sample(sequence.computed == sequence.known);
  if (scheduled.sample()) ++sequence.known;
  while (static_cast<int64_t>(sequence.blocks.size()) * kBlockSize < sequence.computed) {
    sequence.blocks.push_back(free_.back());  // 5 sequences of 52 tokens have room
    free_.pop_back();
    scheduled.add_new_block_ids(sequence.blocks.back());
  }
}

std::vector<std::string> ResultTexts(const GangOutput& output) {
  std::vector<std::string> results;
  for (v1::StepResult result : output.results) {
    result.clear_step_ms();
    result.clear_bubble_ms();
    results.push_back(result.ShortDebugString());
  }
  return results;
}

}  // namespace trireme
