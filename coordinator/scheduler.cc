#include "coordinator/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace trireme {

void Scheduler::Add(Sequence sequence) {
  CHECK(sequences_.empty() || sequence.id > sequences_.rbegin()->first);
  CHECK(!sequence.tokens.empty() && sequence.max_tokens > 0);
  sequence.num_prompt = static_cast<uint32_t>(sequence.tokens.size());
  sequence.state = SequenceState::kWaiting;
  waiting_.push_back(sequence.id);
  sequences_.emplace(sequence.id, std::move(sequence));
}

void Scheduler::Cancel(uint64_t id) {
  const auto found = sequences_.find(id);
  if (found != sequences_.end()) Finish(found->second);
}

std::optional<v1::StepPlan> Scheduler::Plan() {
  if (!capacity_.has_value() || in_flight_.has_value()) return std::nullopt;
  v1::StepPlan plan;
  uint32_t budget = token_budget();
  // Decodes first: whoever is being read waits least. A second pass continues started prompts.
  for (const bool prefill : {false, true}) {
    for (const uint64_t id : running_) {
      Sequence& sequence = Get(id);
      if ((sequence.num_to_compute() > 1) != prefill || sequence.num_to_compute() == 0) continue;
      budget -= Schedule(sequence, budget, plan);
    }
  }
  while (budget > 0 && AdmitNext(plan)) budget -= Schedule(Get(running_.back()), budget, plan);
  if (plan.scheduled().empty()) return std::nullopt;

  plan.set_epoch(capacity_->epoch);
  plan.set_step(++last_step_);
  plan.mutable_finished_ids()->Add(unsent_finished_.begin(), unsent_finished_.end());
  unsent_finished_.clear();
  in_flight_ = InFlight{.step = plan.step(), .sampled_ids = {}};
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    if (scheduled.sample()) in_flight_->sampled_ids.push_back(scheduled.id());
  }
  return plan;
}

uint32_t Scheduler::token_budget() const {
  return std::min(options_.max_num_batched_tokens, capacity_->max_num_batched_tokens);
}

uint32_t Scheduler::Schedule(Sequence& sequence, uint32_t budget, v1::StepPlan& plan) {
  const uint32_t count = std::min(sequence.num_to_compute(), budget);
  if (count == 0) return 0;
  v1::ScheduledSequence& scheduled = *plan.add_scheduled();
  scheduled.set_id(sequence.id);
  scheduled.set_num_tokens(count);
  if (sequence.num_computed == 0) {
    scheduled.mutable_new_block_ids()->Add(sequence.block_table.begin(),
                                           sequence.block_table.end());
  }
  sequence.num_computed += count;
  scheduled.set_sample(sequence.num_to_compute() == 0);
  return count;
}

bool Scheduler::AdmitNext(v1::StepPlan& plan) {
  // Every running sequence must be able to decode in the same step.
  const uint32_t running_max = std::min(options_.max_num_seqs, token_budget());
  if (waiting_.empty() || running_.size() >= running_max) return false;
  Sequence& sequence = Get(waiting_.front());
  std::optional<std::vector<uint32_t>> blocks =
      blocks_.Allocate(blocks_.BlocksFor(sequence.tokens_max()));
  if (!blocks.has_value()) return false;  // in turn: a smaller one behind it does not overtake
  sequence.block_table = *std::move(blocks);
  sequence.state = SequenceState::kRunning;
  waiting_.pop_front();
  running_.push_back(sequence.id);

  v1::NewSequence& added = *plan.add_new_sequences();
  added.set_id(sequence.id);
  added.mutable_token_ids()->Add(sequence.tokens.begin(), sequence.tokens.end());
  added.set_prompt_tokens(sequence.num_prompt);
  *added.mutable_sampling() = sequence.sampling;
  return true;
}

absl::StatusOr<std::vector<SequenceOutput>> Scheduler::Apply(const v1::StepResult& result) {
  if (!capacity_.has_value() || result.epoch() != capacity_->epoch) {
    return std::vector<SequenceOutput>();
  }
  RETURN_IF_ERROR(CheckResult(result));
  in_flight_.reset();
  ++steps_;
  std::vector<SequenceOutput> outputs;
  for (const v1::SampledToken& token : result.tokens()) {
    const auto found = sequences_.find(token.sequence_id());
    if (found == sequences_.end()) continue;  // cancelled while the step ran
    outputs.push_back(Accept(found->second, token));
  }
  return outputs;
}

absl::Status Scheduler::CheckResult(const v1::StepResult& result) const {
  if (!in_flight_.has_value() || result.step() != in_flight_->step) {
    return absl::InternalError(
        absl::StrCat("the gang answered step ", result.step(), ", which was not asked of it"));
  }
  const std::vector<uint64_t>& expected = in_flight_->sampled_ids;
  const auto same_id = [](const v1::SampledToken& token, uint64_t id) {
    return token.sequence_id() == id;
  };
  if (!std::equal(result.tokens().begin(), result.tokens().end(), expected.begin(), expected.end(),
                  same_id)) {
    return absl::InternalError(absl::StrCat("the gang's answer to step ", result.step(),
                                            " is for other sequences than were planned"));
  }
  for (const v1::SampledToken& token : result.tokens()) {
    if (token.token_id() < 0 || static_cast<uint32_t>(token.token_id()) >= options_.vocab_size) {
      return absl::InternalError(absl::StrCat("the gang sampled token ", token.token_id(),
                                              ", outside of the vocabulary of ",
                                              options_.vocab_size));
    }
  }
  return absl::OkStatus();
}

SequenceOutput Scheduler::Accept(Sequence& sequence, const v1::SampledToken& token) {
  ++tokens_generated_;
  sequence.tokens.push_back(token.token_id());
  SequenceOutput output{.token = token, .finish_reason = v1::FINISH_REASON_UNSPECIFIED};
  const std::vector<int32_t>& stops = sequence.stop_token_ids;
  if (std::find(stops.begin(), stops.end(), token.token_id()) != stops.end()) {
    output.finish_reason = v1::FINISH_REASON_STOP;
  } else if (sequence.num_sampled() >= sequence.max_tokens) {
    output.finish_reason = v1::FINISH_REASON_LENGTH;
  }
  if (output.finish_reason != v1::FINISH_REASON_UNSPECIFIED) Finish(sequence);
  return output;
}

void Scheduler::Finish(Sequence& sequence) {
  const uint64_t id = sequence.id;
  if (sequence.state == SequenceState::kRunning) {
    // Free at once: whoever gets the blocks is told of in a later plan, which frees this one first.
    blocks_.Free(sequence.block_table);
    unsent_finished_.push_back(id);
    std::erase(running_, id);
  } else {
    waiting_.erase(std::find(waiting_.begin(), waiting_.end(), id));
  }
  sequences_.erase(id);
}

std::vector<uint64_t> Scheduler::GangReady(const GangCapacity& capacity) {
  CHECK(!capacity_.has_value());
  capacity_ = capacity;
  blocks_ = BlockManager(capacity.kv_blocks, capacity.kv_block_size);
  last_step_ = 0;
  std::vector<uint64_t> misfits;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence.tokens_max() > capacity.max_model_len ||
        blocks_.BlocksFor(sequence.tokens_max()) > blocks_.num_blocks()) {
      misfits.push_back(id);
    }
  }
  for (const uint64_t id : misfits) Cancel(id);
  return misfits;
}

std::vector<uint64_t> Scheduler::GangLost() {
  std::vector<uint64_t> given_up;
  for (const uint64_t id : running_) {
    Sequence& sequence = Get(id);
    sequence.state = SequenceState::kWaiting;
    sequence.num_computed = 0;
    sequence.block_table.clear();
    if (++sequence.gangs_lost >= options_.gangs_lost_max) given_up.push_back(id);
  }
  waiting_.insert(waiting_.begin(), running_.begin(), running_.end());
  running_.clear();
  unsent_finished_.clear();
  in_flight_.reset();
  capacity_.reset();
  blocks_ = BlockManager();
  for (const uint64_t id : given_up) Cancel(id);
  return given_up;
}

Sequence& Scheduler::Get(uint64_t id) {
  const auto found = sequences_.find(id);
  CHECK(found != sequences_.end());
  return found->second;
}

const Sequence* Scheduler::Find(uint64_t id) const {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : &found->second;
}

absl::Status Scheduler::CheckIntegrity() const {
  RETURN_IF_ERROR(blocks_.CheckIntegrity());
  if (waiting_.size() + running_.size() != sequences_.size()) {
    return absl::InternalError("a sequence is in no queue or in two");
  }
  size_t owned = 0;
  for (const uint64_t id : running_) {
    const Sequence* sequence = Find(id);
    if (sequence == nullptr || sequence->state != SequenceState::kRunning) {
      return absl::InternalError(absl::StrCat("sequence ", id, " should not be running"));
    }
    owned += sequence->block_table.size();
  }
  for (const uint64_t id : waiting_) {
    const Sequence* sequence = Find(id);
    if (sequence == nullptr || sequence->state != SequenceState::kWaiting ||
        !sequence->block_table.empty()) {
      return absl::InternalError(absl::StrCat("sequence ", id, " should not be waiting"));
    }
  }
  if (owned + blocks_.num_free() != blocks_.num_blocks()) {
    return absl::InternalError(absl::StrCat(owned, " blocks owned and ", blocks_.num_free(),
                                            " free do not add up to ", blocks_.num_blocks()));
  }
  return absl::OkStatus();
}

}  // namespace trireme
