#include "tests/simulation/simulation.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme::simulation {
namespace {

constexpr uint32_t kVocab = 24;
constexpr uint32_t kTenants = 3;

template <typename... Args>
absl::Status Wrong(const Args&... args) {
  return absl::InternalError(absl::StrCat(args...));
}

SchedulerOptions DrawOptions(Random& random) {
  SchedulerOptions options;
  options.max_num_seqs = random.Between(1, 10);
  options.max_num_batched_tokens =
      random.Percent(20) ? random.Between(1, 6) : random.Between(4, 60);
  options.vocab_size = kVocab;
  options.gangs_lost_suspect = random.Between(1, 4);
  options.gangs_lost_max = random.Percent(30) ? random.Between(1, 3) : 1'000'000;
  options.prefix_caching = random.Percent(85);
  options.hash_key = {random.Next(), random.Next()};
  options.queue.starvation_steps = random.Percent(50) ? random.Between(3, 30) : 1000;
  options.suspect_stands_back = random.Between(0, 20);
  if (random.Percent(50)) options.queue.tenant_weights["tenant1"] = random.Between(1, 40) / 10.0;
  return options;
}

}  // namespace

Simulation::Simulation(uint64_t seed, bool trace)
    : seed_(seed),
      trace_(trace),
      random_(seed),
      options_(DrawOptions(random_)),
      scheduler_(std::in_place, options_),
      oracle_(options_.vocab_size) {
  DrawWeights();
  eager_ = random_.Percent(70);
  tail_vocab_ = random_.Between(1, 3);
  prompt_max_ = random_.Between(1, 40);
  answer_max_ = random_.Between(1, 24);
  pool_factor_ = random_.Between(100, random_.Percent(50) ? 250 : 800);
  spaces_ = random_.Between(1, 2);
  for (uint32_t i = random_.Between(1, 3); i > 0; --i) {
    std::vector<int32_t>& text = texts_.emplace_back(prompt_max_);
    for (int32_t& token : text) token = static_cast<int32_t>(random_.Below(tail_vocab_));
  }
}

// Every seed has a temper of its own: some are all arrivals, some all cancels.
void Simulation::DrawWeights() {
  weights_.resize(static_cast<size_t>(Event::kCount));
  const auto draw = [&](Event event, uint32_t most, uint32_t percent) {
    const bool wanted = random_.Percent(percent);
    weights_[static_cast<size_t>(event)] = wanted ? random_.Between(1, most) : 0;
  };
  draw(Event::kArrive, 30, 100);
  draw(Event::kDeliver, 100, 100);
  draw(Event::kCancel, 10, 50);
  draw(Event::kPause, 12, 50);
  draw(Event::kResume, 12, 80);
  draw(Event::kLose, 4, 40);
  draw(Event::kStale, 4, 50);
  draw(Event::kMixedTokens, 4, 30);
}

Simulation::Event Simulation::DrawEvent() {
  uint32_t total = 0;
  for (const uint32_t weight : weights_) total += weight;
  uint32_t drawn = random_.Below(total);
  size_t event = 0;
  while (drawn >= weights_[event]) drawn -= weights_[event++];
  return static_cast<Event>(event);
}

GangCapacity Simulation::DrawCapacity() {
  GangCapacity capacity;
  capacity.epoch = ++epoch_;
  capacity.pipeline_stages = random_.Percent(40) ? 1 : random_.Between(2, 4);
  capacity.kv_block_size = random_.Between(1, 16);
  capacity.max_model_len = prompt_max_ + answer_max_;
  // Sometimes smaller than before: what was accepted then does not fit now.
  if (epoch_ > 1 && random_.Percent(15)) capacity.max_model_len = random_.Between(2, 40);
  const uint32_t one =
      (capacity.max_model_len + capacity.kv_block_size - 1) / capacity.kv_block_size;
  capacity.kv_blocks = std::max(one, one * pool_factor_ / 100);
  capacity.swap_blocks = random_.Percent(50) ? 0 : random_.Between(1, 2 * capacity.kv_blocks);
  capacity.max_num_batched_tokens = random_.Percent(20) ? random_.Between(1, 8) : 64;
  return capacity;
}

std::vector<int32_t> Simulation::DrawPrompt(uint32_t tokens) {
  std::vector<int32_t> prompt = texts_[random_.Below(static_cast<uint32_t>(texts_.size()))];
  prompt.resize(tokens);
  const uint32_t tail = random_.Percent(40) ? 0 : random_.Between(0, std::min(tokens, 6u));
  for (uint32_t i = tokens - tail; i < tokens; ++i) {
    prompt[i] = static_cast<int32_t>(random_.Below(tail_vocab_));
  }
  return prompt;
}

std::optional<uint64_t> Simulation::DrawOpen() {
  if (oracle_.open().empty()) return std::nullopt;
  auto it = oracle_.open().begin();
  std::advance(it, random_.Below(static_cast<uint32_t>(oracle_.open().size())));
  return it->first;
}

absl::Status Simulation::Run() {
  RETURN_IF_ERROR(random_.Percent(80) ? Ready() : absl::OkStatus());
  for (uint32_t events = random_.Between(40, 200); events > 0; --events) {
    ++event_;
    if (gang_ == nullptr && random_.Percent(25)) {
      RETURN_IF_ERROR(Ready());
    } else {
      RETURN_IF_ERROR(Happen(DrawEvent()));
    }
    if (eager_ || random_.Percent(50)) RETURN_IF_ERROR(PlanAll());
    RETURN_IF_ERROR(CheckAll());
  }
  return Drain();
}

absl::Status Simulation::Happen(Event event) {
  switch (event) {
    case Event::kArrive:
      return Arrive();
    case Event::kDeliver:
      return Deliver();
    case Event::kLose:
      return Lose();
    case Event::kStale:
      return Stale();
    case Event::kMixedTokens: {
      const uint32_t tokens = random_.Between(0, 40);
      Trace(absl::StrCat("steps with decodes have ", tokens, " tokens"));
      scheduler_->SetMixedStepTokens(tokens);
      return absl::OkStatus();
    }
    default:
      break;
  }
  const std::optional<uint64_t> id = DrawOpen();
  if (!id.has_value()) return absl::OkStatus();
  if (event == Event::kCancel) {
    Trace(absl::StrCat("cancel ", *id));
    scheduler_->Cancel(*id);
    oracle_.End(*id);
  } else if (event == Event::kPause) {
    Trace(absl::StrCat("pause ", *id));
    scheduler_->Pause(*id);
  } else {
    Trace(absl::StrCat("resume ", *id));
    scheduler_->Resume(*id);
  }
  return absl::OkStatus();
}

absl::Status Simulation::Arrive() {
  if (oracle_.open().size() > 40) return absl::OkStatus();
  // What cannot fit the gang is refused before it comes to the scheduler.
  const uint32_t longest =
      epoch_ == 0 ? prompt_max_ : std::min(prompt_max_, capacity_.max_model_len - 1);
  const uint32_t tokens = random_.Between(1, longest);
  const uint32_t room = epoch_ == 0 ? answer_max_ : capacity_.max_model_len - tokens;
  const uint32_t max_tokens = random_.Percent(10) ? std::min(answer_max_, room)
                                                  : random_.Between(1, std::min(answer_max_, room));
  Add(random_.Percent(30) ? random_.Between(2, 8) : 1, DrawPrompt(tokens), max_tokens);
  return absl::OkStatus();
}

void Simulation::Add(uint32_t count, std::vector<int32_t> prompt, uint32_t max_tokens) {
  const uint32_t tenant = random_.Below(kTenants);
  const uint32_t space = tenant * spaces_ + random_.Below(spaces_);
  Sequence request;
  request.priority = static_cast<v1::Priority>(random_.Below(4));
  request.tenant_name = absl::StrCat("tenant", tenant);
  request.cache_root = HashNamespace(options_.hash_key, absl::StrCat("space", space));
  request.tokens = std::move(prompt);
  request.max_tokens = max_tokens;
  if (random_.Percent(20)) request.sampling.set_prompt_logprobs(1);
  for (uint32_t i = random_.Below(3); i > 0; --i) {
    request.stop_token_ids.push_back(static_cast<int32_t>(random_.Below(kVocab)));
  }
  std::vector<Sequence> siblings(count, request);
  for (Sequence& sibling : siblings) {
    sibling.id = next_id_++;
    sibling.sampling.set_seed(random_.Percent(20) ? 7 : random_.Next());
    oracle_.Add(sibling, space);
  }
  Trace(absl::StrCat("arrive ", siblings.front().id, "..", siblings.back().id, " of ",
                     request.tenant_name, ", space ", space, ", priority ",
                     static_cast<int>(request.priority), ": ", request.tokens.size(), "+",
                     max_tokens, " tokens",
                     request.sampling.has_prompt_logprobs() ? ", prompt logprobs" : ""));
  scheduler_->Add(std::move(siblings));
}

absl::Status Simulation::Ready() {
  capacity_ = DrawCapacity();
  Trace(absl::StrCat("gang ", capacity_.epoch, " is ready: ", capacity_.kv_blocks, " blocks of ",
                     capacity_.kv_block_size, ", swap ", capacity_.swap_blocks, ", pp ",
                     capacity_.pipeline_stages, ", length ", capacity_.max_model_len, ", budget ",
                     capacity_.max_num_batched_tokens));
  gang_ = std::make_unique<SimulatedGang>(capacity_, options_,
                                          [this](uint64_t id) { return oracle_.SpaceOf(id); });
  std::vector<uint64_t> misfits;
  for (const auto& [id, client] : oracle_.open()) {
    if (client.num_prompt + client.max_tokens > capacity_.max_model_len) misfits.push_back(id);
  }
  if (scheduler_->AllFit(capacity_) != misfits.empty()) {
    return Wrong("other sequences fit the gang");
  }
  for (const uint64_t id : misfits) {
    scheduler_->Cancel(id);
    oracle_.End(id);
  }
  scheduler_->GangReady(capacity_);
  return absl::OkStatus();
}

absl::Status Simulation::Lose() {
  if (gang_ == nullptr) return absl::OkStatus();
  // One that drains owes nothing when it ends.
  while (random_.Percent(60) && !results_.empty()) RETURN_IF_ERROR(Deliver());
  Trace("the gang is lost");
  std::vector<uint64_t> given_up;
  for (const auto& [id, client] : oracle_.open()) {
    const Sequence* sequence = scheduler_->Find(id);
    if (sequence->state == SequenceState::kRunning && scheduler_->oldest_step() > 0 &&
        sequence->last_step >= scheduler_->oldest_step() &&
        sequence->gangs_lost + 1 >=
            options_.gangs_lost_max +
                std::min(sequence->gangs_lost_without, 3 * options_.gangs_lost_max)) {
      given_up.push_back(id);
    }
  }
  gang_ = nullptr;
  for (v1::StepResult& result : results_) stale_.push_back(std::move(result));
  results_.clear();
  if (scheduler_->GangLost() != given_up) return Wrong("other sequences lost too many gangs");
  for (const uint64_t id : given_up) oracle_.End(id);
  return random_.Percent(50) ? Move() : absl::OkStatus();
}

// To the scheduler of another gang, in any order of requests.
absl::Status Simulation::Move() {
  Trace("all move");
  std::map<uint64_t, std::vector<uint64_t>> requests;  // by a random key
  std::map<uint64_t, uint64_t> keys;                   // by leader
  for (const auto& [id, client] : oracle_.open()) {
    const uint64_t leader = scheduler_->Find(id)->leader_id;
    requests[keys.try_emplace(leader, random_.Next()).first->second].push_back(id);
  }
  std::vector<std::vector<Sequence>> moved;
  for (const auto& [key, ids] : requests) moved.push_back(scheduler_->Take(ids));
  if (scheduler_->num_sequences() != 0 || scheduler_->num_paused() != 0) {
    return Wrong("something stayed behind");
  }
  RETURN_IF_ERROR(scheduler_->CheckIntegrity());
  scheduler_.emplace(options_);
  for (std::vector<Sequence>& siblings : moved) scheduler_->Add(std::move(siblings));
  return absl::OkStatus();
}

absl::Status Simulation::Stale() {
  if (stale_.empty()) return absl::OkStatus();
  const uint32_t index = random_.Below(static_cast<uint32_t>(stale_.size()));
  Trace(absl::StrCat("stale result of step ", stale_[index].step(), " of gang ",
                     stale_[index].epoch()));
  const absl::StatusOr<StepOutput> output = scheduler_->Apply(stale_[index]);
  if (!output.ok()) return output.status();
  if (output->tokens.empty() && output->prompt_logprobs.empty()) return absl::OkStatus();
  return Wrong("a stale result was taken");
}

absl::Status Simulation::PlanAll() {
  bool planned = true;
  while (planned) RETURN_IF_ERROR(PlanOnce(planned));
  return gang_ == nullptr ? absl::OkStatus() : CheckIdle();
}

absl::Status Simulation::PlanOnce(bool& planned) {
  std::vector<uint64_t> waited;
  std::vector<uint64_t> ran;
  for (const auto& [id, client] : oracle_.open()) {
    const SequenceState state = scheduler_->Find(id)->state;
    if (state == SequenceState::kWaiting) waited.push_back(id);
    if (state == SequenceState::kRunning) ran.push_back(id);
  }
  const std::optional<v1::StepPlan> plan = scheduler_->Plan();
  planned = plan.has_value();
  if (!planned) return absl::OkStatus();
  if (gang_ == nullptr) return Wrong("a plan without a gang");
  if (++plans_ > 100'000) return Wrong("the work does not end");
  if (trace_) TracePlan(*plan);
  absl::StatusOr<v1::StepResult> result = gang_->Step(*plan);
  if (!result.ok()) return result.status();
  results_.push_back(*std::move(result));
  if (results_.size() != scheduler_->plans_in_flight() ||
      results_.size() > capacity_.pipeline_stages + 1) {
    return Wrong(results_.size(), " plans are in flight");
  }
  return CheckOrder(*plan, waited, ran);
}

absl::Status Simulation::Deliver() {
  if (results_.empty()) return absl::OkStatus();
  Trace(absl::StrCat("result of step ", results_.front().step(), ": ",
                     results_.front().tokens_size(), " tokens"));
  absl::StatusOr<StepOutput> output = scheduler_->Apply(std::move(results_.front()));
  results_.pop_front();
  if (!output.ok()) return output.status();
  return oracle_.Hear(*output);
}

// Everything that has come goes its way to the end, and nothing stays behind.
absl::Status Simulation::Drain() {
  Trace("drain");
  for (const auto& [id, client] : oracle_.open()) scheduler_->Resume(id);
  if (gang_ == nullptr) RETURN_IF_ERROR(Ready());
  const uint32_t patience = random_.Between(0, 2);  // results that stay in flight
  while (!oracle_.open().empty()) {
    RETURN_IF_ERROR(PlanAll());
    while (results_.size() > patience) RETURN_IF_ERROR(Deliver());
    RETURN_IF_ERROR(PlanAll());
    RETURN_IF_ERROR(Deliver());
    RETURN_IF_ERROR(CheckAll());
  }
  // One more, so that the gang is told of all that ended before it.
  while (!results_.empty()) RETURN_IF_ERROR(Deliver());
  const uint64_t last = next_id_;
  Add(1, DrawPrompt(1), 1);
  RETURN_IF_ERROR(PlanAll());
  if (gang_->num_sequences() != 1 || !gang_->Knows(last)) {
    return Wrong("the gang still holds ", gang_->num_sequences(), " sequences");
  }
  while (!results_.empty()) RETURN_IF_ERROR(Deliver());
  RETURN_IF_ERROR(CheckAll());
  if (!oracle_.open().empty() || scheduler_->num_sequences() != 0 ||
      scheduler_->plans_in_flight() != 0 || scheduler_->num_paused() != 0 ||
      scheduler_->blocks().num_free() != capacity_.kv_blocks ||
      scheduler_->swap().num_free() != capacity_.swap_blocks) {
    return Wrong("something is left behind");
  }
  return absl::OkStatus();
}

absl::Status RunSeeds(uint64_t first, uint64_t count, uint64_t& seed) {
  for (seed = first; seed < first + count; ++seed) {
    const absl::Status status = Simulation(seed, /*trace=*/false).Run();
    if (status.ok()) continue;
    return Wrong("seed ", seed, ": ", std::string(status.message()),
                 "\n  replay with: scripts/simulate.sh ", seed, " --trace");
  }
  return absl::OkStatus();
}

void Simulation::Trace(const std::string& line) const {
  if (trace_) std::printf("%4llu  %s\n", static_cast<unsigned long long>(event_), line.c_str());
}

void Simulation::TracePlan(const v1::StepPlan& plan) const {
  std::string line = absl::StrCat("plan ", plan.step(), ":");
  for (const uint64_t id : plan.finished_ids()) absl::StrAppend(&line, " end ", id);
  for (const v1::BlockCopy& copy : plan.copies()) {
    absl::StrAppend(&line, " copy ", copy.from(), "->", copy.to());
  }
  for (const v1::NewSequence& added : plan.new_sequences()) {
    absl::StrAppend(&line, " new ", added.id(), " (", added.computed_tokens(), "/",
                    added.token_ids_size(), ")");
  }
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    absl::StrAppend(&line, " | ", scheduled.id(), " x", scheduled.num_tokens(),
                    scheduled.sample() ? " sampled" : "");
    for (const uint32_t block : scheduled.new_block_ids()) absl::StrAppend(&line, " b", block);
  }
  Trace(line);
}

}  // namespace trireme::simulation
