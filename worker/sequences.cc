#include "worker/sequences.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/sampler.h"

namespace trireme {
namespace {

absl::Status BadPlan(uint64_t id, const char* what) {
  return absl::InternalError(absl::StrCat("step plan: sequence ", id, ": ", what));
}

}  // namespace

absl::Status Sequences::Apply(const v1::StepPlan& plan) {
  if (plan.epoch() != last_epoch_) sequences_.clear();
  last_epoch_ = plan.epoch();
  ++plans_;
  for (const uint64_t id : plan.finished_ids()) sequences_.erase(id);
  for (const v1::NewSequence& added : plan.new_sequences()) RETURN_IF_ERROR(Add(added));
  int64_t tokens = 0;
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    RETURN_IF_ERROR(Schedule(scheduled));
    tokens += scheduled.num_tokens();
    if (tokens > limits_.max_batched_tokens) {
      return BadPlan(scheduled.id(), "exceeds --max-num-batched-tokens");
    }
  }
  return absl::OkStatus();
}

absl::Status Sequences::Add(const v1::NewSequence& added) {
  const auto valid = [&](int32_t id) { return id >= 0 && id < limits_.vocab_size; };
  const v1::StepSampling& sampling = added.sampling();
  const size_t count = static_cast<size_t>(added.token_ids_size());
  if (!std::all_of(added.token_ids().begin(), added.token_ids().end(), valid) ||
      added.prompt_tokens() > count) {
    return BadPlan(added.id(), "has tokens out of range");
  }
  if (added.computed_tokens() > 0 && added.computed_tokens() >= count) {
    return BadPlan(added.id(), "has no token left to compute");
  }
  if (sampling.bias_size() != sampling.bias_ids_size() ||
      !std::all_of(sampling.bias_ids().begin(), sampling.bias_ids().end(), valid)) {
    return BadPlan(added.id(), "has a logit bias out of range");
  }
  const bool inserted =
      sequences_
          .try_emplace(added.id(), RankSequence{.token_ids = {added.token_ids().begin(),
                                                              added.token_ids().end()},
                                                .prompt_tokens = added.prompt_tokens(),
                                                .computed = added.computed_tokens(),
                                                .block_table = {},
                                                .sampling = sampling,
                                                .incarnation = ++incarnations_})
          .second;
  return inserted ? absl::OkStatus() : BadPlan(added.id(), "is new, but not the first of its id");
}

absl::Status Sequences::Schedule(const v1::ScheduledSequence& scheduled) {
  const auto found = sequences_.find(scheduled.id());
  if (found == sequences_.end()) return BadPlan(scheduled.id(), "is not known");
  RankSequence& sequence = found->second;
  if (std::exchange(sequence.last_plan, plans_) == plans_) {
    return BadPlan(scheduled.id(), "is scheduled twice");
  }
  for (const uint32_t block : scheduled.new_block_ids()) {
    if (block >= limits_.num_blocks) return BadPlan(scheduled.id(), "has a block out of range");
    sequence.block_table.push_back(static_cast<int32_t>(block));
  }
  const size_t end = sequence.computed + scheduled.num_tokens();
  if (scheduled.num_tokens() == 0 || end > sequence.token_ids.size()) {
    return BadPlan(scheduled.id(), "has fewer tokens than are to be computed");
  }
  if (scheduled.sample() != (end == sequence.token_ids.size())) {
    return BadPlan(scheduled.id(), "must be sampled exactly when its last token is computed");
  }
  if (end > sequence.block_table.size() * static_cast<size_t>(limits_.block_size)) {
    return BadPlan(scheduled.id(), "has too few blocks");
  }
  return absl::OkStatus();
}

void Sequences::Finish(const v1::StepPlan& plan, bool to_fill) {
  std::vector<Place> places;
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    RankSequence& sequence = sequences_.at(scheduled.id());
    sequence.computed += scheduled.num_tokens();
    if (!scheduled.sample()) continue;
    places.push_back({.id = scheduled.id(),
                      .incarnation = sequence.incarnation,
                      .position = sequence.token_ids.size()});
    sequence.token_ids.push_back(UnknownToken(places.size() - 1));
  }
  if (to_fill && !places.empty()) unfilled_.push_back(std::move(places));
}

void Sequences::Fill(std::span<const int32_t> sampled) {
  CHECK(sampled.size() == oldest_unfilled());
  for (size_t i = 0; i < sampled.size(); ++i) {
    const Place& place = unfilled_.front()[i];
    const auto found = sequences_.find(place.id);
    if (found == sequences_.end() || found->second.incarnation != place.incarnation) continue;
    found->second.token_ids[place.position] = sampled[i];
  }
  unfilled_.pop_front();
}

bool Sequences::ComputesUnknown(const v1::StepPlan& plan) const {
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    const RankSequence& sequence = sequences_.at(scheduled.id());
    const auto begin = sequence.token_ids.begin() + static_cast<ptrdiff_t>(sequence.computed);
    const auto end = begin + static_cast<ptrdiff_t>(scheduled.num_tokens());
    if (std::any_of(begin, end, IsUnknown)) return true;
  }
  return false;
}

bool Sequences::SamplesByUnknown(const v1::StepPlan& plan) const {
  return std::any_of(
      plan.scheduled().begin(), plan.scheduled().end(), [&](const v1::ScheduledSequence& s) {
        const RankSequence& sequence = sequences_.at(s.id());
        return s.sample() && IsPenalised(sequence.sampling) && IsUnknown(sequence.token_ids.back());
      });
}

}  // namespace trireme
