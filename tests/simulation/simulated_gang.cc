#include "tests/simulation/simulated_gang.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme::simulation {
namespace {

template <typename... Args>
absl::Status Wrong(const Args&... args) {
  return absl::FailedPreconditionError(absl::StrCat(args...));
}

}  // namespace

SimulatedGang::SimulatedGang(const GangCapacity& capacity, const SchedulerOptions& options,
                             std::function<uint64_t(uint64_t)> space_of)
    : capacity_(capacity),
      token_budget_(std::min(options.max_num_batched_tokens, capacity.max_num_batched_tokens)),
      max_num_seqs_(options.max_num_seqs),
      vocab_size_(options.vocab_size),
      space_of_(std::move(space_of)),
      slots_((capacity.kv_blocks + capacity.swap_blocks) * capacity.kv_block_size, 0),
      names_(capacity.kv_blocks, 0) {}

absl::StatusOr<v1::StepResult> SimulatedGang::Step(const v1::StepPlan& plan) {
  if (plan.epoch() != capacity_.epoch) return Wrong("the plan is of epoch ", plan.epoch());
  if (plan.step() != ++step_) return Wrong("step ", plan.step(), " came, ", step_, " was due");
  RETURN_IF_ERROR(RemoveFinished(plan));
  RETURN_IF_ERROR(Copy(plan));
  RETURN_IF_ERROR(AddNew(plan));
  RETURN_IF_ERROR(ExtendTables(plan));
  // A layer stores the keys and values of all tokens before any token attends to them.
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) RETURN_IF_ERROR(Store(scheduled));
  v1::StepResult result;
  result.set_epoch(plan.epoch());
  result.set_step(plan.step());
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    RETURN_IF_ERROR(Answer(scheduled, result));
  }
  for (const v1::NewSequence& added : plan.new_sequences()) {
    for (const uint32_t block : sequences_.at(added.id()).blocks) ++names_[block];
  }
  return result;
}

absl::Status SimulatedGang::RemoveFinished(const v1::StepPlan& plan) {
  for (const uint64_t id : plan.finished_ids()) {
    const auto found = sequences_.find(id);
    if (found == sequences_.end()) return Wrong("finished sequence ", id, " is not known");
    for (const uint32_t block : found->second.blocks) --names_[block];
    sequences_.erase(found);
  }
  return absl::OkStatus();
}

absl::Status SimulatedGang::Copy(const v1::StepPlan& plan) {
  const size_t size = capacity_.kv_block_size;
  for (const v1::BlockCopy& copy : plan.copies()) {
    const uint32_t blocks = capacity_.kv_blocks + capacity_.swap_blocks;
    if (copy.from() >= blocks || copy.to() >= blocks || copy.from() == copy.to()) {
      return Wrong("copy of block ", copy.from(), " to ", copy.to());
    }
    if (copy.to() < capacity_.kv_blocks && names_[copy.to()] > 0) {
      return Wrong("block ", copy.to(), " is copied over, but a sequence holds it");
    }
    std::copy_n(slots_.begin() + static_cast<ptrdiff_t>(copy.from() * size), size,
                slots_.begin() + static_cast<ptrdiff_t>(copy.to() * size));
  }
  return absl::OkStatus();
}

absl::Status SimulatedGang::AddNew(const v1::StepPlan& plan) {
  for (const v1::NewSequence& added : plan.new_sequences()) {
    const auto [found, is_new] = sequences_.try_emplace(added.id());
    if (!is_new) return Wrong("new sequence ", added.id(), " is known already");
    State& state = found->second;
    if (added.prompt_tokens() == 0 ||
        added.prompt_tokens() > static_cast<uint32_t>(added.token_ids_size()) ||
        added.computed_tokens() >= static_cast<uint32_t>(added.token_ids_size())) {
      return Wrong("sequence ", added.id(), " comes with ", added.token_ids_size(), " tokens, ",
                   added.prompt_tokens(), " of the prompt, ", added.computed_tokens(), " computed");
    }
    state.sampling = added.sampling();
    state.num_prompt = added.prompt_tokens();
    state.computed = added.computed_tokens();
    state.added_step = step_;
    History history = Begin(space_of_(added.id()));
    for (const int32_t token : added.token_ids()) {
      state.histories.push_back(history = Extend(history, token));
    }
  }
  if (sequences_.size() > max_num_seqs_) return Wrong(sequences_.size(), " sequences run");
  return absl::OkStatus();
}

absl::Status SimulatedGang::ExtendTables(const v1::StepPlan& plan) {
  std::set<uint64_t> seen;
  uint64_t tokens = 0;
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    const uint64_t id = scheduled.id();
    if (!seen.insert(id).second) return Wrong("sequence ", id, " is scheduled twice");
    const auto found = sequences_.find(id);
    if (found == sequences_.end()) return Wrong("scheduled sequence ", id, " is not known");
    if (scheduled.num_tokens() == 0) return Wrong("no token of sequence ", id, " is scheduled");
    tokens += scheduled.num_tokens();
    State& state = found->second;
    for (const uint32_t block : scheduled.new_block_ids()) {
      if (block >= capacity_.kv_blocks) return Wrong("there is no block ", block);
      state.blocks.push_back(block);
      if (state.added_step == step_) continue;
      if (names_[block]++ > 0) return Wrong("block ", block, " of sequence ", id, " is taken");
    }
  }
  for (const v1::NewSequence& added : plan.new_sequences()) {
    if (!seen.contains(added.id())) return Wrong("new sequence ", added.id(), " has no blocks");
  }
  if (tokens == 0 || tokens > token_budget_) {
    return Wrong(tokens, " tokens in a step of at most ", token_budget_);
  }
  return absl::OkStatus();
}

absl::Status SimulatedGang::Store(const v1::ScheduledSequence& scheduled) {
  State& state = sequences_.at(scheduled.id());
  const uint64_t size = capacity_.kv_block_size;
  const uint64_t end = uint64_t{state.computed} + scheduled.num_tokens();
  if (end > state.histories.size() || end > state.blocks.size() * size) {
    return Wrong("sequence ", scheduled.id(), " is to compute ", end, " tokens; it has ",
                 state.histories.size(), ", and ", state.blocks.size(), " blocks of ", size);
  }
  for (uint64_t position = state.computed; position < end; ++position) {
    const uint32_t block = state.blocks[position / size];
    // Only who comes with this very step may share what the step computes.
    if (names_[block] > (state.added_step == step_ ? 0u : 1u)) {
      return Wrong("sequence ", scheduled.id(), " stores to block ", block, ", which others read");
    }
    slots_[block * size + position % size] = state.histories[position];
  }
  return absl::OkStatus();
}

absl::Status SimulatedGang::Attend(uint64_t id, const State& state) const {
  const uint64_t size = capacity_.kv_block_size;
  for (uint64_t first = 0; first < state.computed; first += size) {
    const uint64_t count = std::min<uint64_t>(size, state.computed - first);
    const uint32_t block = state.blocks[first / size];
    const auto expected = state.histories.begin() + static_cast<ptrdiff_t>(first);
    const auto found = slots_.begin() + static_cast<ptrdiff_t>(block * size);
    const auto wrong = std::mismatch(expected, expected + static_cast<ptrdiff_t>(count), found);
    if (wrong.second == found + static_cast<ptrdiff_t>(count)) continue;
    return Wrong("sequence ", id, " finds something else than its token ",
                 wrong.first - state.histories.begin(), " in block ", block);
  }
  return absl::OkStatus();
}

absl::Status SimulatedGang::Answer(const v1::ScheduledSequence& scheduled, v1::StepResult& result) {
  const uint64_t id = scheduled.id();
  State& state = sequences_.at(id);
  const uint32_t first = state.computed;
  state.computed += scheduled.num_tokens();
  RETURN_IF_ERROR(Attend(id, state));
  if (state.sampling.has_prompt_logprobs()) {
    for (uint32_t next = first + 1; next <= state.computed && next < state.num_prompt; ++next) {
      v1::PromptLogprob& logprob = *result.add_prompt_logprobs();
      logprob.set_sequence_id(id);
      logprob.set_position(next);
      logprob.set_logprob(PromptLogprobOf(state.histories[next]));
    }
  }
  const bool last = state.computed == state.histories.size();
  if (scheduled.sample() != last) {
    return Wrong("sequence ", id, last ? " is not" : " is", " to be sampled at token ",
                 state.computed, " of ", state.histories.size());
  }
  if (!last) return absl::OkStatus();
  const History history = state.histories.back();
  v1::SampledToken& token = *result.add_tokens();
  token.set_sequence_id(id);
  token.set_token_id(NextToken(history, state.sampling.seed(), vocab_size_));
  state.histories.push_back(Extend(history, token.token_id()));
  return absl::OkStatus();
}

}  // namespace trireme::simulation
