#include "coordinator/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

// A step in which others decode takes at least so many tokens of prompts, however long it takes.
constexpr uint32_t kPrefillTokensMin = 2;
// An output token costs a tenant what two prompt tokens do: it is computed in smaller batches.
constexpr double kDecodeCost = 2;

bool RunsBefore(const Sequence* a, const Sequence* b) {
  return a->priority != b->priority ? a->priority > b->priority : a->id < b->id;
}

// What a gang knew and kept of a sequence is gone; what it was asked for will be sampled again, to
// the same tokens.
void ForgetGang(Sequence& sequence) {
  sequence.block_table.clear();
  sequence.block_hashes.clear();  // the next gang's blocks may be of another size
  sequence.swap_table.clear();
  sequence.num_swapped = 0;
  sequence.num_published = 0;
  sequence.num_computed = 0;
  sequence.num_pending = 0;
  sequence.last_step = 0;
}

}  // namespace

void Scheduler::Add(std::vector<Sequence> siblings) {
  const uint64_t leader_id = siblings.front().id;
  for (Sequence& added : siblings) {
    CHECK(!sequences_.contains(added.id) && !added.tokens.empty() && added.max_tokens > 0);
    CHECK(!capacity_.has_value() || capacity_->Holds(added.tokens_max()));
    auto sequence = std::make_unique<Sequence>(std::move(added));
    const bool is_new = sequence->num_prompt == 0;
    sequence->leader_id = leader_id;
    if (sequence->priority == v1::PRIORITY_UNSPECIFIED) sequence->priority = v1::PRIORITY_NORMAL;
    if (is_new) sequence->num_prompt = static_cast<uint32_t>(sequence->tokens.size());
    sequence->tenant = queue_.Enter(sequence->tenant_name);
    // Who has once been let go need not wait for the prompt again.
    sequence->follows = sequence->id != leader_id && (is_new || sequence->follows);
    if (sequence->paused) ++num_paused_;
    if (IsSuspect(*sequence)) suspects_.insert(sequence->id);
    if (sequence->follows) followers_[leader_id].push_back(sequence->id);
    Queue(*sequence);
    sequences_.emplace(sequence->id, std::move(sequence));
  }
}

std::vector<Sequence> Scheduler::Take(std::span<const uint64_t> ids) {
  std::vector<Sequence> taken;
  // The leader last: its end lets those go that follow it.
  for (auto id = ids.rbegin(); id != ids.rend(); ++id) {
    Sequence& sequence = *sequences_.at(*id);
    CHECK(in_flight_.empty() || sequence.last_step < in_flight_.front().step);
    ForgetGang(taken.emplace_back(sequence));
    taken.back().state = SequenceState::kHeld;
    taken.back().tenant = nullptr;
    Finish(sequence);
  }
  std::reverse(taken.begin(), taken.end());
  return taken;
}

void Scheduler::Cancel(uint64_t id) {
  const auto found = sequences_.find(id);
  if (found != sequences_.end()) Finish(*found->second);
}

void Scheduler::Pause(uint64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end() || found->second->paused) return;
  Sequence& sequence = *found->second;
  sequence.paused = true;
  ++num_paused_;
  if (sequence.state != SequenceState::kWaiting) return;
  queue_.Remove(sequence);
  sequence.state = SequenceState::kHeld;
}

void Scheduler::Resume(uint64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end() || !found->second->paused) return;
  found->second->paused = false;
  --num_paused_;
  Queue(*found->second);
}

// A held sequence that may run joins the queue.
void Scheduler::Queue(Sequence& sequence) {
  if (sequence.state != SequenceState::kHeld || !sequence.Runnable()) return;
  sequence.state = SequenceState::kWaiting;
  sequence.queued_step = stats_.steps;
  queue_.Push(sequence);
}

void Scheduler::InsertRunning(Sequence& sequence) {
  sequence.state = SequenceState::kRunning;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &sequence, RunsBefore),
                  &sequence);
}

std::optional<v1::StepPlan> Scheduler::Plan() {
  if (!capacity_.has_value() || in_flight_.size() > capacity_->pipeline_stages) {
    return std::nullopt;
  }
  if (last_step_ >= options_.suspect_stands_back) CallSuspects();
  Sequence* suspect = NextSuspect();
  if (suspect != nullptr && !in_flight_.empty()) return std::nullopt;
  v1::StepPlan plan;
  plan.mutable_scheduled()->Reserve(static_cast<int>(running_.size()));
  in_flight_.push_back({.step = step(), .sampled_ids = {}});
  in_flight_.back().sampled_ids.reserve(running_.size());
  preempted_ = false;
  fresh_blocks_.clear();
  if (suspect != nullptr) {
    PlanAlone(*suspect, plan);
  } else {
    MakeRoom();
    uint32_t budget = token_budget();
    ScheduleRunning(plan, budget);
    announced_tokens_ = 0;
    while (budget > 0 && !preempted_ && announced_tokens_ < options_.announced_tokens_max &&
           AdmitNext(budget, plan)) {
    }
  }
  if (plan.scheduled().empty()) {
    in_flight_.pop_back();
    return in_flight_.empty() && CallSuspects() ? Plan() : std::nullopt;
  }
  // Only now, so that what they copy from their leader is computed by an earlier step than theirs.
  for (const uint64_t leader : std::exchange(leaders_done_, {})) ReleaseFollowers(leader);
  plan.set_epoch(capacity_->epoch);
  plan.set_step(++last_step_);
  plan.mutable_finished_ids()->Add(unsent_finished_.begin(), unsent_finished_.end());
  plan.mutable_copies()->Add(unsent_copies_.begin(), unsent_copies_.end());
  unsent_finished_.clear();
  unsent_copies_.clear();
  return plan;
}

uint32_t Scheduler::token_budget() const {
  const uint32_t budget =
      std::min(options_.max_num_batched_tokens, capacity_->max_num_batched_tokens);
  const auto decodes = [](const Sequence* s) { return s->num_sampled() + s->num_pending > 0; };
  if (std::none_of(running_.begin(), running_.end(), decodes)) return budget;
  const uint32_t least = static_cast<uint32_t>(running_.size()) + kPrefillTokensMin;
  return std::min(budget, std::max(mixed_step_tokens_, least));
}

uint32_t Scheduler::running_max() const {
  // Every running sequence must be able to decode in the same step.
  return std::min(
      {options_.max_num_seqs, options_.max_num_batched_tokens, capacity_->max_num_batched_tokens});
}

// Blocks that an admission leaves free, for those that run to grow.
uint64_t Scheduler::reserve() const { return running_.empty() ? 0 : blocks_.num_blocks() / 128; }

bool Scheduler::Fits(const Sequence& waiting) const {
  return running_.size() < running_max() &&
         blocks_.BlocksFor(waiting.num_tokens()) + reserve() <= blocks_.num_free();
}

void Scheduler::MakeRoom() {
  const Sequence* next = queue_.Next(stats_.steps);
  if (next == nullptr || Fits(*next)) return;
  std::vector<Sequence*> victims;
  uint64_t blocks = blocks_.num_free();
  for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
    if (!(*it)->paused && (*it)->priority >= next->priority) continue;
    victims.push_back(*it);
    blocks += (*it)->block_table.size();
  }
  if (victims.empty() || blocks < blocks_.BlocksFor(next->num_tokens())) return;
  std::stable_partition(victims.begin(), victims.end(), [](Sequence* s) { return s->paused; });
  for (Sequence* victim : victims) {
    if (Fits(*next)) return;
    Preempt(*victim);
  }
}

void Scheduler::ScheduleRunning(v1::StepPlan& plan, uint32_t& budget) {
  // Decodes first: whoever is being read waits least.
  if (!ScheduleDecodes(plan, budget, /*any_step=*/false) && in_flight_.size() <= 2) {
    // Too few sequences to fill the pipeline: one of them waits inside the gang instead of here.
    ScheduleDecodes(plan, budget, /*any_step=*/true);
  }
  for (Sequence* sequence : running_) {
    if (budget == 0) return;
    if (sequence->paused || sequence->last_step == step()) continue;
    if (sequence->num_to_compute() > 1) {
      Schedule(*sequence, sequence->block_table.size(), budget, plan);
    }
  }
}

// A pipeline with pp stages works on pp plans at a time, each with other sequences: one that was
// sampled less than pp plans ago would hold up the whole pipeline, as its token is not known yet.
bool Scheduler::Eligible(const Sequence& sequence, bool any_step) const {
  return !sequence.paused && sequence.num_to_compute() == 1 &&
         (any_step || sequence.num_pending == 0 ||
          sequence.last_step + capacity_->pipeline_stages <= step());
}

// Whether any was scheduled.
bool Scheduler::ScheduleDecodes(v1::StepPlan& plan, uint32_t& budget, bool any_step) {
  size_t limit = running_.size();
  if (const uint32_t stages = capacity_->pipeline_stages; stages > 1) {
    const auto decodes = [](const Sequence* s) { return !s->paused && s->num_to_compute() == 1; };
    const auto count = std::count_if(running_.begin(), running_.end(), decodes);
    limit = (static_cast<size_t>(count) + stages - 1) / stages;
  }
  size_t scheduled = 0;
  for (size_t i = 0; i < running_.size() && scheduled < limit && budget > 0; ++i) {
    Sequence& sequence = *running_[i];
    if (!Eligible(sequence, any_step)) continue;
    const size_t known_blocks = sequence.block_table.size();
    if (!GrowTable(sequence)) break;  // all behind it have given way already
    Schedule(sequence, known_blocks, budget, plan);
    ++scheduled;
    // Paused ones before it may have given way.
    while (i >= running_.size() || running_[i] != &sequence) --i;
  }
  return scheduled > 0;
}

void Scheduler::Schedule(Sequence& sequence, size_t known_blocks, uint32_t& budget,
                         v1::StepPlan& plan) {
  const uint32_t count = std::min(sequence.num_to_compute(), budget);
  budget -= count;
  v1::ScheduledSequence& scheduled = *plan.add_scheduled();
  scheduled.set_id(sequence.id);
  scheduled.set_num_tokens(count);
  for (size_t i = known_blocks; i < sequence.block_table.size(); ++i) {
    scheduled.add_new_block_ids(sequence.block_table[i]);
  }
  sequence.num_computed += count;
  sequence.last_step = step();
  sequence.last_count = count;
  if (sequence.num_computed > sequence.num_prefilled) {
    const bool decode = sequence.num_computed > sequence.num_prompt;
    const uint32_t fresh = sequence.num_computed - sequence.num_prefilled;
    sequence.tenant->served += (decode ? kDecodeCost : 1) * fresh / sequence.tenant->weight;
    sequence.num_prefilled = sequence.num_computed;
  }
  stats_.tokens_prefilled += sequence.num_sampled() + sequence.num_pending == 0 ? count : count - 1;
  const size_t published = sequence.num_published;
  Publish(sequence);
  fresh_blocks_.insert(fresh_blocks_.end(), sequence.block_table.begin() + published,
                       sequence.block_table.begin() + sequence.num_published);
  if (sequence.id == sequence.leader_id && sequence.num_computed == sequence.num_prompt &&
      !followers_.empty()) {
    leaders_done_.push_back(sequence.id);
  }
  if (sequence.num_computed == sequence.num_tokens()) {
    scheduled.set_sample(true);
    ++sequence.num_pending;
    in_flight_.back().sampled_ids.push_back(sequence.id);
  }
}

bool Scheduler::GrowTable(Sequence& sequence) {
  while (sequence.block_table.size() * blocks_.block_size() <= sequence.num_computed) {
    if (const std::optional<uint32_t> block = blocks_.Allocate()) {
      sequence.block_table.push_back(*block);
      continue;
    }
    Sequence* victim = Victim(sequence);
    preempted_ = true;
    Preempt(*victim);
    if (victim == &sequence) return false;
  }
  return true;
}

// Who gives way: one that is paused, or else the last in order that this step does not compute,
// which may be the sequence itself.
Sequence* Scheduler::Victim(const Sequence& for_whom) const {
  const auto free = [&](const Sequence* s) { return s->last_step != step() || s == &for_whom; };
  if (num_paused_ > 0) {
    for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
      if ((*it)->paused && free(*it)) return *it;
    }
  }
  const auto victim = std::find_if(running_.rbegin(), running_.rend(), free);
  CHECK(victim != running_.rend());
  return *victim;
}

void Scheduler::Preempt(Sequence& sequence) {
  ++stats_.preemptions;
  std::erase(running_, &sequence);
  unsent_finished_.push_back(sequence.id);
  SwapOut(sequence);
  blocks_.Release(sequence.block_table);
  sequence.block_table.clear();
  sequence.num_published = 0;
  sequence.num_computed = 0;
  sequence.state = SequenceState::kHeld;
  Queue(sequence);
}

// Keeps what is computed in host memory, if there is room: copying a block back costs far less than
// a step with its tokens. Blocks that are published stay where they are and may be found again.
void Scheduler::SwapOut(Sequence& sequence) {
  const uint64_t count = blocks_.BlocksFor(sequence.num_computed);
  if (count == 0 || count > swap_.num_free()) return;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t block = *swap_.Allocate();
    sequence.swap_table.push_back(block);
    v1::BlockCopy& copy = unsent_copies_.emplace_back();
    copy.set_from(sequence.block_table[i]);
    copy.set_to(capacity_->kv_blocks + block);
  }
  sequence.num_swapped = sequence.num_computed;
  ++stats_.swaps;
}

bool Scheduler::AdmitNext(uint32_t& budget, v1::StepPlan& plan) {
  Sequence* next = queue_.Next(stats_.steps);
  return next != nullptr && Admit(*next, budget, plan);
}

bool Scheduler::Admit(Sequence& sequence, uint32_t& budget, v1::StepPlan& plan) {
  if (running_.size() >= running_max()) return false;
  const Prefix prefix = FindPrefix(sequence);
  // In turn: a smaller one behind it does not overtake.
  if (!TakeBlocks(sequence, prefix)) return false;
  queue_.Remove(sequence);
  // One that has waited so long must not be made to wait again by its class.
  if (queue_.Starved(sequence, stats_.steps)) sequence.priority = v1::PRIORITY_HIGH;
  stats_.prefix_tokens_asked += sequence.num_tokens();
  stats_.prefix_tokens_hit += sequence.num_computed;
  if (sequence.num_prefilled == 0) {
    sequence.num_cached = sequence.num_computed;
    sequence.num_prefilled = sequence.num_computed;
  }
  SwapIn(sequence, prefix.shared.size());
  InsertRunning(sequence);
  Announce(sequence, plan);
  Schedule(sequence, /*known_blocks=*/0, budget, plan);
  return true;
}

Scheduler::Prefix Scheduler::FindPrefix(Sequence& sequence) {
  Prefix prefix;
  // Prompt log probabilities come from computing the prompt.
  const bool wants_prompt =
      sequence.sampling.has_prompt_logprobs() && sequence.prompt_logprobs + 1 < sequence.num_prompt;
  if (!options_.prefix_caching || wants_prompt) return prefix;
  const uint32_t size = blocks_.block_size();
  // The last token is always computed: its logits are wanted.
  const uint32_t most = sequence.num_tokens() - 1;
  const size_t full = sequence.num_tokens() / size;
  HashBlocks(sequence, full);
  while (prefix.shared.size() < full) {
    const std::optional<uint32_t> block = blocks_.Find(sequence.block_hashes[prefix.shared.size()]);
    if (!block.has_value()) break;
    prefix.shared.push_back(*block);
  }
  prefix.computed = static_cast<uint32_t>(prefix.shared.size()) * size;
  if (prefix.computed > most) {
    const uint32_t last = prefix.shared.back();
    prefix.shared.pop_back();
    prefix.computed -= size;
    if (IsFresh(last)) return prefix;
    prefix.source = last;
    prefix.computed = most;
    return prefix;
  }
  // What the leader has of the prompt behind its last full block.
  const auto leader = sequences_.find(sequence.leader_id);
  const uint32_t common = std::min(sequence.num_prompt, most);
  if (sequence.leader_id != sequence.id && leader != sequences_.end() &&
      leader->second->state == SequenceState::kRunning && common > prefix.computed &&
      common - prefix.computed < size && ComputedBefore(*leader->second) >= sequence.num_prompt) {
    const uint32_t source = leader->second->block_table[prefix.shared.size()];
    if (IsFresh(source)) return prefix;
    prefix.source = source;
    prefix.computed = common;
  }
  return prefix;
}

// Copies are made before the step computes, so what it computes cannot be copied yet.
bool Scheduler::IsFresh(uint32_t block) const {
  return std::find(fresh_blocks_.begin(), fresh_blocks_.end(), block) != fresh_blocks_.end();
}

// Tokens whose keys and values are there when the step being planned begins.
uint32_t Scheduler::ComputedBefore(const Sequence& sequence) const {
  return sequence.num_computed - (sequence.last_step == step() ? sequence.last_count : 0);
}

// Shares the blocks found and takes the rest of those that the sequence's tokens need.
bool Scheduler::TakeBlocks(Sequence& sequence, const Prefix& prefix) {
  const auto is_free = [&](uint32_t block) { return blocks_.references(block) == 0; };
  const auto free_shared = std::count_if(prefix.shared.begin(), prefix.shared.end(), is_free) +
                           (prefix.source.has_value() && is_free(*prefix.source) ? 1 : 0);
  const uint64_t count = blocks_.BlocksFor(sequence.num_tokens());
  if (count - prefix.shared.size() + reserve() + static_cast<uint64_t>(free_shared) >
      blocks_.num_free()) {
    if (!prefix.source.has_value()) return false;
    // The block to copy from may be the very one that is needed.
    const uint32_t computed = static_cast<uint32_t>(prefix.shared.size()) * blocks_.block_size();
    return TakeBlocks(sequence,
                      {.shared = prefix.shared, .source = std::nullopt, .computed = computed});
  }
  for (const uint32_t block : prefix.shared) blocks_.Share(block);
  if (prefix.source.has_value()) blocks_.Share(*prefix.source);
  sequence.block_table = prefix.shared;
  while (sequence.block_table.size() < count) sequence.block_table.push_back(*blocks_.Allocate());
  if (prefix.source.has_value()) {
    v1::BlockCopy& copy = unsent_copies_.emplace_back();
    copy.set_from(*prefix.source);
    copy.set_to(sequence.block_table[prefix.shared.size()]);
    blocks_.Release({&*prefix.source, 1});
  }
  sequence.num_computed = prefix.computed;
  sequence.num_published = static_cast<uint32_t>(prefix.shared.size());
  return true;
}

// Copies back what was swapped out and is not shared.
void Scheduler::SwapIn(Sequence& sequence, size_t first_block) {
  if (sequence.num_swapped > sequence.num_computed) {
    for (size_t i = first_block; i < sequence.swap_table.size(); ++i) {
      v1::BlockCopy& copy = unsent_copies_.emplace_back();
      copy.set_from(capacity_->kv_blocks + sequence.swap_table[i]);
      copy.set_to(sequence.block_table[i]);
    }
    sequence.num_computed = std::min(sequence.num_swapped, sequence.num_tokens() - 1);
  }
  swap_.Release(sequence.swap_table);
  sequence.swap_table.clear();
  sequence.num_swapped = 0;
}

void Scheduler::Announce(Sequence& sequence, v1::StepPlan& plan) {
  v1::NewSequence& added = *plan.add_new_sequences();
  added.set_id(sequence.id);
  added.mutable_token_ids()->Add(sequence.tokens.begin(), sequence.tokens.end());
  announced_tokens_ += sequence.tokens.size();
  added.set_prompt_tokens(sequence.num_prompt);
  added.set_computed_tokens(sequence.num_computed);
  *added.mutable_sampling() = sequence.sampling;
}

void Scheduler::HashBlocks(Sequence& sequence, size_t count) {
  const size_t size = blocks_.block_size();
  while (sequence.block_hashes.size() < count) {
    const size_t index = sequence.block_hashes.size();
    const BlockHash& parent = index == 0 ? sequence.cache_root : sequence.block_hashes[index - 1];
    sequence.block_hashes.push_back(HashBlock(
        options_.hash_key, parent, std::span(sequence.tokens).subspan(index * size, size)));
  }
}

// Makes the sequence's full blocks of known tokens findable. Plans are computed in order, so what
// is planned can be shared by this very plan: a layer stores the keys of all before it reads any.
void Scheduler::Publish(Sequence& sequence) {
  if (!options_.prefix_caching) return;
  const size_t known = std::min<size_t>(sequence.num_computed, sequence.tokens.size());
  const size_t full = known / blocks_.block_size();
  if (sequence.num_published >= full) return;
  HashBlocks(sequence, full);
  for (; sequence.num_published < full; ++sequence.num_published) {
    blocks_.Publish(sequence.block_table[sequence.num_published],
                    sequence.block_hashes[sequence.num_published]);
  }
}

void Scheduler::ReleaseFollowers(uint64_t leader_id) {
  const auto found = followers_.find(leader_id);
  if (found == followers_.end()) return;
  const std::vector<uint64_t> ids = std::move(found->second);
  followers_.erase(found);
  for (const uint64_t id : ids) {
    const auto follower = sequences_.find(id);
    if (follower == sequences_.end()) continue;
    follower->second->follows = false;
    Queue(*follower->second);
  }
}

absl::StatusOr<StepOutput> Scheduler::Apply(v1::StepResult result) {
  StepOutput output;
  if (!capacity_.has_value() || result.epoch() != capacity_->epoch) return output;
  RETURN_IF_ERROR(CheckResult(result));
  in_flight_.pop_front();
  ++stats_.steps;
  for (v1::PromptLogprob& logprob : *result.mutable_prompt_logprobs()) {
    const auto found = sequences_.find(logprob.sequence_id());
    if (found == sequences_.end()) continue;
    uint32_t& delivered = found->second->prompt_logprobs;
    if (logprob.position() <= delivered) continue;  // computed again after a preemption
    delivered = logprob.position();
    output.prompt_logprobs.push_back(std::move(logprob));
  }
  output.tokens.reserve(static_cast<size_t>(result.tokens_size()));
  for (v1::SampledToken& token : *result.mutable_tokens()) {
    const auto found = sequences_.find(token.sequence_id());
    if (found == sequences_.end()) continue;  // ended while the step ran
    output.tokens.push_back(Accept(*found->second, std::move(token)));
  }
  return output;
}

absl::Status Scheduler::CheckResult(const v1::StepResult& result) const {
  if (in_flight_.empty() || result.step() != in_flight_.front().step) {
    return absl::InternalError(absl::StrCat("the gang answered step ", result.step(), ", but ",
                                            in_flight_.empty() ? 0 : in_flight_.front().step,
                                            " is due"));
  }
  const std::vector<uint64_t>& expected = in_flight_.front().sampled_ids;
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
  for (const double ms : {result.step_ms(), result.idle_ms(), result.bubble_ms()}) {
    if (!(ms >= 0 && ms < 1e12)) {  // it may have been idle for months
      return absl::InternalError(
          absl::StrCat("the gang says that step ", result.step(), " took ", ms, " ms"));
    }
  }
  return CheckPromptLogprobs(result);
}

// Every position of a sequence's prompt must come, and none before its turn.
absl::Status Scheduler::CheckPromptLogprobs(const v1::StepResult& result) const {
  absl::flat_hash_map<uint64_t, uint32_t> last;
  for (const v1::PromptLogprob& logprob : result.prompt_logprobs()) {
    const Sequence* sequence = Find(logprob.sequence_id());
    if (sequence == nullptr) continue;
    uint32_t& known = last.try_emplace(sequence->id, sequence->prompt_logprobs).first->second;
    const uint32_t position = logprob.position();
    if (position == 0 || position >= sequence->num_prompt || position > known + 1) {
      return absl::InternalError(absl::StrCat("the gang sent a log probability of position ",
                                              position, " of sequence ", sequence->id,
                                              " out of turn"));
    }
    known = std::max(known, position);
  }
  return absl::OkStatus();
}

SequenceOutput Scheduler::Accept(Sequence& sequence, v1::SampledToken&& token) {
  ++stats_.tokens_generated;
  --sequence.num_pending;
  sequence.tokens.push_back(token.token_id());
  sequence.gangs_lost = sequence.gangs_lost_without = 0;
  suspects_.erase(sequence.id);
  SequenceOutput output{.token = std::move(token),
                        .finish_reason = v1::FINISH_REASON_UNSPECIFIED,
                        .num_sampled = sequence.num_sampled(),
                        .cached_tokens = sequence.num_cached};
  const std::vector<int32_t>& stops = sequence.stop_token_ids;
  if (std::find(stops.begin(), stops.end(), sequence.tokens.back()) != stops.end()) {
    output.finish_reason = v1::FINISH_REASON_STOP;
  } else if (sequence.num_sampled() >= sequence.max_tokens) {
    output.finish_reason = v1::FINISH_REASON_LENGTH;
  }
  if (output.finish_reason != v1::FINISH_REASON_UNSPECIFIED) {
    Finish(sequence);
  } else if (sequence.state == SequenceState::kRunning) {
    Publish(sequence);
  } else {
    Queue(sequence);  // preempted meanwhile; now its tokens are known
  }
  return output;
}

void Scheduler::Finish(Sequence& sequence) {
  const uint64_t id = sequence.id;
  if (sequence.state == SequenceState::kRunning) {
    // Free at once: whoever gets the blocks is told of in a later plan, which frees this one first.
    blocks_.Release(sequence.block_table);
    unsent_finished_.push_back(id);
    std::erase(running_, &sequence);
  } else if (sequence.state == SequenceState::kWaiting) {
    queue_.Remove(sequence);
  }
  swap_.Release(sequence.swap_table);
  if (sequence.paused) --num_paused_;
  queue_.Leave(sequence.tenant);
  const bool leads = sequence.id == sequence.leader_id;
  suspects_.erase(id);
  sequences_.erase(id);
  if (leads) ReleaseFollowers(id);
}

void Scheduler::GangReady(const GangCapacity& capacity) {
  CHECK(!capacity_.has_value() && AllFit(capacity));
  capacity_ = capacity;
  blocks_ = BlockManager(capacity.kv_blocks, capacity.kv_block_size);
  swap_ = BlockManager(capacity.swap_blocks, capacity.kv_block_size);
  last_step_ = 0;
}

bool Scheduler::AllFit(const GangCapacity& capacity) const {
  return std::all_of(sequences_.begin(), sequences_.end(),
                     [&](const auto& entry) { return capacity.Holds(entry.second->tokens_max()); });
}

std::vector<uint64_t> Scheduler::GangLost(bool silent) {
  std::vector<uint64_t> given_up;
  capacity_.reset();
  // What the gang was not computing has not killed it.
  const uint64_t computing = in_flight_.empty() ? UINT64_MAX : in_flight_.front().step;
  in_flight_.clear();
  leaders_done_.clear();
  for (Sequence* sequence : std::exchange(running_, {})) {
    sequence->state = SequenceState::kHeld;
    if (sequence->last_step < computing) continue;
    ++sequence->gangs_lost;
    sequence->gangs_lost_without += silent ? 1 : 0;
    if (IsGivenUp(*sequence)) given_up.push_back(sequence->id);
    if (IsSuspect(*sequence)) suspects_.insert(sequence->id);
  }
  std::vector<Sequence*> all;
  for (const auto& [id, sequence] : sequences_) all.push_back(sequence.get());
  std::sort(all.begin(), all.end(), [](auto* a, auto* b) { return a->id < b->id; });
  for (Sequence* sequence : all) {
    if (sequence->last_step < computing && sequence->gangs_lost > 0) ++sequence->gangs_lost_without;
    sequence->stands_back = sequence->gangs_lost > options_.gangs_lost_suspect;
    if (sequence->stands_back && sequence->state == SequenceState::kWaiting) {
      queue_.Remove(*sequence);
      sequence->state = SequenceState::kHeld;
    }
    ForgetGang(*sequence);
    Queue(*sequence);
  }
  unsent_finished_.clear();
  unsent_copies_.clear();
  blocks_ = swap_ = BlockManager();
  std::sort(given_up.begin(), given_up.end());
  for (const uint64_t id : given_up) Cancel(id);
  return given_up;
}

uint64_t Scheduler::TokensAhead(v1::Priority priority) const {
  uint64_t tokens = queue_.TokensAhead(priority);
  for (const Sequence* sequence : running_) {
    if (sequence->num_to_compute() > 1) tokens += sequence->num_to_compute();
  }
  return tokens;
}

uint64_t Scheduler::TokensOutstanding() const {
  uint64_t tokens = 0;
  for (const auto& [id, sequence] : sequences_) {
    tokens += sequence->tokens_max() - sequence->num_computed;
  }
  return tokens;
}

uint32_t Scheduler::CachedTokens(const BlockHash& cache_root,
                                 std::span<const int32_t> tokens) const {
  if (!options_.prefix_caching || !capacity_.has_value()) return 0;
  const size_t size = blocks_.block_size();
  BlockHash hash = cache_root;
  size_t cached = 0;
  while (cached + size <= tokens.size()) {
    hash = HashBlock(options_.hash_key, hash, tokens.subspan(cached, size));
    if (!blocks_.Find(hash).has_value()) break;
    cached += size;
  }
  return static_cast<uint32_t>(cached);
}

const Sequence* Scheduler::Find(uint64_t id) const {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : found->second.get();
}

}  // namespace trireme
