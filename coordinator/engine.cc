#include "coordinator/engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

// Of the first steps that also decode, while nobody knows how long a step takes.
constexpr uint32_t kTokensAtUnknownSpeed = 64;

// Between two messages of a stream, where tokens come faster.
constexpr std::chrono::milliseconds kFlushInterval{4};

// Under a steady overload every request that is admitted is a close call, and what misses its
// deadline in the end has cost the others their time.
constexpr double kDeadlineMargin = 1.25;

// For those who come while workers load or join anew: soon enough, and not a flood.
constexpr double kNoGangRetryMs = 2'000;

absl::Status WithRetry(absl::Status status, double after_ms) {
  const auto whole_ms = static_cast<int64_t>(std::clamp(after_ms, 100.0, 600'000.0));
  status.SetPayload(kRetryAfterMs, absl::Cord(absl::StrCat(whole_ms)));
  return status;
}

absl::Status TryAgain(const std::string& why, double after_ms) {
  return WithRetry(absl::ResourceExhaustedError(why), after_ms);
}

double Milliseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

}  // namespace

Engine::Engine(EngineOptions options)
    : options_(std::move(options)),
      max_model_len_(options_.gang.max_model_len),
      scheduler_(options_.scheduler),
      supervisor_(options_.gang) {}

Engine::~Engine() { Stop("the coordinator has stopped"); }

void Engine::Start() {
  CHECK(!thread_.joinable());
  thread_ = std::thread([this] { Loop(); });
}

void Engine::Stop(const std::string& reason) {
  Post([this, reason] {
    stopped_ = true;
    stop_reason_ = reason;
  });
  if (thread_.joinable()) thread_.join();
}

void Engine::Submit(uint64_t request_id, GenerationRequest request,
                    std::shared_ptr<TokenSink> sink) {
  const bool posted = Post([this, request_id, request = std::move(request), sink] {
    HandleSubmit(request_id, request, sink);
  });
  if (!posted) sink->OnError(absl::UnavailableError("the coordinator has stopped"));
}

void Engine::Cancel(uint64_t request_id) {
  Post([this, request_id] {
    if (!requests_.contains(request_id)) return;
    counts_.set_requests_cancelled(counts_.requests_cancelled() + 1);
    CloseRequest(request_id);
  });
}

void Engine::Pause(uint64_t request_id) {
  Post([this, request_id] { HandlePause(request_id); });
}

void Engine::Resume(uint64_t request_id) {
  Post([this, request_id] { HandleResume(request_id); });
}

uint64_t Engine::OnWorkerConnect(std::shared_ptr<WorkerStream> stream, std::string peer) {
  const uint64_t id = next_stream_id_++;
  const bool posted =
      Post([this, id, stream, peer = std::move(peer)] { supervisor_.OnConnect(id, stream, peer); });
  if (!posted) stream->Close(absl::UnavailableError("the coordinator has stopped"));
  return id;
}

void Engine::OnWorkerMessage(uint64_t stream_id, v1::WorkerMessage message) {
  Post([this, stream_id, message = std::move(message)] {
    HandleGangEvent(supervisor_.OnMessage(stream_id, message, Clock::now()));
  });
}

void Engine::OnWorkerDisconnect(uint64_t stream_id, std::string why) {
  Post([this, stream_id, why = std::move(why)] {
    HandleGangEvent(supervisor_.OnDisconnect(stream_id, why, Clock::now()));
  });
}

v1::ListRanksResponse Engine::Describe() const {
  const std::lock_guard lock(description_mutex_);
  return description_;
}

v1::GetStatsResponse Engine::Stats() const {
  const std::lock_guard lock(description_mutex_);
  return stats_;
}

bool Engine::Post(Event event) {
  const std::lock_guard lock(events_mutex_);
  if (closed_) return false;
  events_.push_back(std::move(event));
  events_ready_.notify_one();
  return true;
}

void Engine::Loop() {
  while (!stopped_) {
    for (const Event& event : NextEvents()) event();
    if (stopped_) break;
    CheckDeadlines();
    SendPlans();
    FlushSinks();
    PublishStats();
  }
  ShutDown();
}

std::vector<Engine::Event> Engine::NextEvents() {
  std::unique_lock lock(events_mutex_);
  const auto some = [this] { return !events_.empty(); };
  const std::optional<Clock::time_point> deadline = NextDeadline();
  if (deadline.has_value()) {
    events_ready_.wait_until(lock, *deadline, some);
  } else {
    events_ready_.wait(lock, some);
  }
  return std::exchange(events_, {});
}

std::optional<Engine::Clock::time_point> Engine::NextDeadline() const {
  // At most one of the two is set: steps need a gang.
  std::optional<Clock::time_point> next =
      step_deadline_.has_value() ? step_deadline_ : gang_deadline_;
  if (const auto silence = supervisor_.NextSilence()) {
    next = std::min(next.value_or(*silence), *silence);
  }
  if (!unflushed_.empty()) next = std::min(next.value_or(next_flush_), next_flush_);
  if (num_stalled_ == 0) return next;
  for (const auto& [id, request] : requests_) {
    if (request.give_up.has_value())
      next = std::min(next.value_or(*request.give_up), *request.give_up);
  }
  return next;
}

void Engine::CheckDeadlines() {
  const Clock::time_point now = Clock::now();
  if (step_deadline_.has_value() && now >= *step_deadline_) {
    step_deadline_.reset();
    const uint64_t step = scheduler_.oldest_step();
    HandleGangEvent(supervisor_.LoseGang(
        absl::StrCat("it is stuck: no answer to step ", step, " within ",
                     std::chrono::duration<double>(options_.step_timeout).count(),
                     " s (--step-timeout-s): ", supervisor_.Laggards(step))));
  }
  HandleGangEvent(supervisor_.CheckSilence(now));
  std::vector<uint64_t> stalled;
  for (const auto& [id, request] : requests_) {
    if (num_stalled_ == 0) break;
    if (request.give_up.has_value() && now >= *request.give_up) stalled.push_back(id);
  }
  for (const uint64_t id : stalled) {
    FailRequest(id, absl::ResourceExhaustedError(
                        absl::StrCat("the client reads too slowly: it took nothing for ",
                                     std::chrono::duration<double>(options_.client_timeout).count(),
                                     " s (--client-timeout-s)")));
  }
  if (gang_deadline_.has_value() && now >= *gang_deadline_) {
    gang_deadline_.reset();
    FailAll(absl::UnavailableError(
        absl::StrCat("the workers were lost (", gang_lost_reason_, ") and none came back within ",
                     std::chrono::duration<double>(options_.gang_timeout).count(), " s")));
  }
}

void Engine::SendPlans() {
  if (draining_.has_value()) return EndDrain();
  if (options_.step_target.count() > 0) {
    const auto tokens = load_.TokensWithin(static_cast<double>(options_.step_target.count()));
    scheduler_.SetMixedStepTokens(tokens.value_or(kTokensAtUnknownSpeed));
  }
  while (std::optional<v1::StepPlan> plan = scheduler_.Plan()) {
    SentPlan sent{.tokens = 0, .gang_had_work = !dry_};
    for (const v1::ScheduledSequence& each : plan->scheduled()) sent.tokens += each.num_tokens();
    dry_ = false;
    sent_plans_.push_back(sent);
    supervisor_.SendPlan(*std::move(plan));
    if (!step_deadline_.has_value()) step_deadline_ = Clock::now() + options_.step_timeout;
  }
  if (sent_plans_.empty()) dry_ = true;
}

// Ends a gang that drains as soon as it owes no result.
void Engine::EndDrain() {
  if (scheduler_.plans_in_flight() == 0) HandleGangEvent(supervisor_.LoseGang(*draining_));
}

void Engine::HandleSubmit(uint64_t request_id, const GenerationRequest& request,
                          const std::shared_ptr<TokenSink>& sink) {
  const absl::Status admitted = CheckAdmission(request);
  if (!admitted.ok()) {
    counts_.set_requests_refused(counts_.requests_refused() + 1);
    sink->OnError(admitted);
    return;
  }
  Request& entry = requests_[request_id];
  entry.sink = sink;
  const BlockHash root = CacheRoot(request);
  std::vector<Sequence> siblings(request.n);
  for (uint32_t index = 0; index < request.n; ++index) {
    Sequence& sequence = siblings[index];
    sequence.id = next_sequence_id_++;
    sequence.priority = request.priority;
    sequence.tenant_name = request.tenant;
    sequence.cache_root = root;
    sequence.tokens = request.prompt;
    sequence.sampling = request.sampling;
    sequence.sampling.set_seed(request.sampling.seed() + index);
    if (index > 0) sequence.sampling.clear_prompt_logprobs();  // those of the first are the same
    sequence.max_tokens = request.max_tokens;
    sequence.stop_token_ids = request.stop_token_ids;
    owners_[sequence.id] = {.request_id = request_id, .index = index};
    entry.open_sequences.push_back(sequence.id);
  }
  scheduler_.Add(std::move(siblings));
}

// Prefixes are shared within one model, adapter (none yet) and tenant with the same salt only: the
// time of a first token would tell one tenant what another has asked.
BlockHash Engine::CacheRoot(const GenerationRequest& request) const {
  std::string name;
  for (const std::string& part :
       {options_.model_name, std::string(), request.tenant, request.cache_salt}) {
    absl::StrAppend(&name, part.size(), ":", part, ";");
  }
  return HashNamespace(options_.scheduler.hash_key, name);
}

absl::Status Engine::CheckAdmission(const GenerationRequest& request) const {
  if (!scheduler_.has_gang()) {
    return WithRetry(absl::UnavailableError(
                         absl::StrCat("no workers are ready to serve; ", options_.worker_hint)),
                     kNoGangRetryMs);
  }
  const uint64_t tokens_max = uint64_t{request.max_tokens} + request.prompt.size();
  if (tokens_max > max_model_len()) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and max_tokens come to ", tokens_max,
                                                   " tokens, the workers serve a context of ",
                                                   max_model_len()));
  }
  RETURN_IF_ERROR(CheckQueue(request));
  return CheckDeadline(request);
}

absl::Status Engine::CheckQueue(const GenerationRequest& request) const {
  const size_t places = options_.scheduler.max_num_seqs + options_.max_waiting;
  const double after_ms = load_.FirstTokenMs(QueueAhead(request));
  if (scheduler_.num_sequences() + request.n > places) {
    return TryAgain(
        absl::StrCat("the queue is full: ", scheduler_.num_waiting(), " sequences wait and ",
                     scheduler_.num_running(), " run; try again later, or raise --max-waiting (",
                     options_.max_waiting, ")"),
        after_ms);
  }
  const size_t of_tenant = scheduler_.num_waiting_of(request.tenant);
  if (of_tenant + request.n > options_.max_waiting_per_tenant + options_.scheduler.max_num_seqs) {
    return TryAgain(absl::StrCat("the tenant's queue is full: ", of_tenant,
                                 " of its sequences wait; try again later, or raise "
                                 "--max-waiting-per-tenant (",
                                 options_.max_waiting_per_tenant, ")"),
                    after_ms);
  }
  return absl::OkStatus();
}

LoadEstimate::Queue Engine::QueueAhead(const GenerationRequest& request) const {
  return {.tokens_ahead = scheduler_.TokensAhead(request.priority) + request.prompt.size(),
          .sequences_ahead = scheduler_.SequencesAhead(request.priority),
          .running = scheduler_.num_running(),
          .running_max = options_.scheduler.max_num_seqs,
          .tokens_per_step = options_.scheduler.max_num_batched_tokens};
}

absl::Status Engine::CheckDeadline(const GenerationRequest& request) const {
  if (!request.deadline.has_value()) return absl::OkStatus();
  const double left_ms = Milliseconds(*request.deadline - Clock::now());
  const LoadEstimate::Queue queue = QueueAhead(request);
  const double total_ms = kDeadlineMargin * load_.TotalMs(queue, request.max_tokens);
  if (total_ms <= left_ms) return absl::OkStatus();
  return TryAgain(absl::StrCat("the call's deadline is ", std::llround(left_ms),
                               " ms away, an answer takes about ", std::llround(total_ms),
                               " ms now (first token ", std::llround(load_.FirstTokenMs(queue)),
                               " ms, ", queue.sequences_ahead,
                               " sequences go first); try again later, or allow more time"),
                  total_ms - left_ms);
}

void Engine::HandlePause(uint64_t request_id) {
  const auto found = requests_.find(request_id);
  if (found == requests_.end() || found->second.give_up.has_value()) return;
  found->second.give_up = Clock::now() + options_.client_timeout;
  ++num_stalled_;
  for (const uint64_t id : found->second.open_sequences) scheduler_.Pause(id);
}

void Engine::HandleResume(uint64_t request_id) {
  const auto found = requests_.find(request_id);
  if (found == requests_.end() || !found->second.give_up.has_value()) return;
  found->second.give_up.reset();
  --num_stalled_;
  for (const uint64_t id : found->second.open_sequences) scheduler_.Resume(id);
}

void Engine::HandleGangEvent(GangEvent event) {
  if (const auto* ready = std::get_if<GangIsReady>(&event)) {
    HandleGangReady(ready->capacity);
  } else if (const auto* lost = std::get_if<GangIsLost>(&event)) {
    HandleGangLost(lost->reason);
  } else if (const auto* drains = std::get_if<GangDrains>(&event)) {
    draining_ = drains->reason;
  } else if (auto* result = std::get_if<v1::StepResult>(&event)) {
    HandleResult(std::move(*result));
  }
}

void Engine::HandleGangReady(const GangCapacity& capacity) {
  gang_deadline_.reset();
  max_model_len_ = capacity.max_model_len;
  FailRequestsOf(scheduler_.GangReady(capacity),
                 absl::UnavailableError(absl::StrCat(
                     "the workers were replaced by others that serve a context of only ",
                     capacity.max_model_len, " tokens")));
  PublishGang();
  const v1::ListRanksResponse gang = Describe();
  LogInfo(absl::StrCat("gang ready, epoch ", capacity.epoch, ": ", gang.ranks_size(), " ranks (tp ",
                       gang.tensor_parallel_size(), ", pp ", gang.pipeline_parallel_size(), ", ",
                       gang.communicator(), "), ", capacity.kv_blocks, " KV blocks of ",
                       capacity.kv_block_size, " tokens, context ", capacity.max_model_len));
}

void Engine::HandleGangLost(const std::string& reason) {
  step_deadline_.reset();
  draining_.reset();
  sent_plans_.clear();
  dry_ = true;
  gang_deadline_ = Clock::now() + options_.gang_timeout;
  gang_lost_reason_ = reason;
  max_model_len_ = options_.gang.max_model_len;
  FailRequestsOf(scheduler_.GangLost(),
                 absl::InternalError(
                     absl::StrCat("the workers failed ", options_.scheduler.gangs_lost_max,
                                  " times in a row over this request; the last time: ", reason)));
  PublishGang();
  if (!requests_.empty()) {
    LogWarning(absl::StrCat(requests_.size(), " requests wait for new workers"));
  }
}

void Engine::HandleResult(v1::StepResult result) {
  const size_t in_flight = scheduler_.plans_in_flight();
  v1::StepResult times;  // what Apply leaves of it
  times.set_step_ms(result.step_ms());
  times.set_idle_ms(result.idle_ms());
  times.set_bubble_ms(result.bubble_ms());
  const absl::StatusOr<StepOutput> output = scheduler_.Apply(std::move(result));
  if (!output.ok()) {
    HandleGangEvent(supervisor_.LoseGang(std::string(output.status().message())));
    return;
  }
  if (scheduler_.plans_in_flight() < in_flight) CountStep(times);
  // The next plan first: the gang must not wait until the tokens of this one are delivered.
  SendPlans();
  for (const v1::PromptLogprob& logprob : output->prompt_logprobs) DeliverPromptLogprob(logprob);
  for (const SequenceOutput& each : output->tokens) Deliver(each);
}

void Engine::CountStep(const v1::StepResult& result) {
  const SentPlan sent = sent_plans_.front();
  sent_plans_.pop_front();
  step_deadline_.reset();
  if (!sent_plans_.empty()) step_deadline_ = Clock::now() + options_.step_timeout;
  load_.AddStep(sent.tokens, result.step_ms());
  counts_.set_step_ms_total(counts_.step_ms_total() + result.step_ms());
  counts_.set_bubble_ms_total(counts_.bubble_ms_total() + result.bubble_ms());
  if (sent.gang_had_work) counts_.set_idle_ms_total(counts_.idle_ms_total() + result.idle_ms());
}

void Engine::Deliver(const SequenceOutput& output) {
  const uint64_t sequence_id = output.token.sequence_id();
  const auto owner = owners_.find(sequence_id);
  if (owner == owners_.end()) return;  // its request was stopped by an output of this step
  const uint64_t request_id = owner->second.request_id;
  TokenSink& sink = Touch(request_id);
  const TokenSink::Verdict verdict = sink.OnToken(owner->second.index, output);
  if (verdict == TokenSink::Verdict::kStopRequest) {
    CloseRequest(request_id);
  } else if (verdict == TokenSink::Verdict::kStopSequence ||
             output.finish_reason != v1::FINISH_REASON_UNSPECIFIED) {
    load_.AddFinished(output.num_sampled, Milliseconds(Clock::now().time_since_epoch()),
                      scheduler_.num_waiting() > 0);
    CloseSequence(sequence_id);
  }
}

TokenSink& Engine::Touch(uint64_t request_id) {
  Request& request = requests_.at(request_id);
  if (!request.unflushed) unflushed_.emplace_back(request_id, request.sink);
  request.unflushed = true;
  return *request.sink;
}

void Engine::FlushSinks() {
  if (unflushed_.empty()) return;
  const Clock::time_point now = Clock::now();
  if (now < next_flush_) return;
  next_flush_ = now + kFlushInterval;
  for (const auto& [id, sink] : std::exchange(unflushed_, {})) {
    sink->Flush();
    const auto open = requests_.find(id);
    if (open != requests_.end()) open->second.unflushed = false;
  }
}

void Engine::DeliverPromptLogprob(const v1::PromptLogprob& logprob) {
  const auto owner = owners_.find(logprob.sequence_id());
  if (owner == owners_.end()) return;
  const uint64_t request_id = owner->second.request_id;
  TokenSink& sink = Touch(request_id);
  if (sink.OnPromptLogprob(logprob) == TokenSink::Verdict::kStopRequest) CloseRequest(request_id);
}

void Engine::CloseSequence(uint64_t sequence_id) {
  const auto owner = owners_.find(sequence_id);
  const uint64_t request_id = owner->second.request_id;
  scheduler_.Cancel(sequence_id);
  owners_.erase(owner);
  Request& request = requests_.at(request_id);
  std::erase(request.open_sequences, sequence_id);
  if (!request.open_sequences.empty()) return;
  counts_.set_requests_finished(counts_.requests_finished() + 1);
  CloseRequest(request_id);
}

void Engine::CloseRequest(uint64_t request_id) {
  const auto found = requests_.find(request_id);
  if (found == requests_.end()) return;
  for (const uint64_t id : found->second.open_sequences) {
    scheduler_.Cancel(id);
    owners_.erase(id);
  }
  if (found->second.give_up.has_value()) --num_stalled_;
  requests_.erase(found);
}

void Engine::FailRequest(uint64_t request_id, const absl::Status& status) {
  const std::shared_ptr<TokenSink> sink = requests_.at(request_id).sink;
  counts_.set_requests_failed(counts_.requests_failed() + 1);
  CloseRequest(request_id);
  sink->OnError(status);
}

void Engine::FailRequestsOf(const std::vector<uint64_t>& sequence_ids, const absl::Status& status) {
  for (const uint64_t id : sequence_ids) {
    const auto owner = owners_.find(id);
    if (owner != owners_.end()) FailRequest(owner->second.request_id, status);
  }
}

void Engine::FailAll(const absl::Status& status) {
  while (!requests_.empty()) FailRequest(requests_.begin()->first, status);
}

void Engine::ShutDown() {
  std::vector<Event> late;
  {
    const std::lock_guard lock(events_mutex_);
    closed_ = true;
    late = std::exchange(events_, {});
  }
  // Requests and workers that came in meanwhile must hear of the end, too.
  for (const Event& event : late) event();
  for (const auto& [id, sink] : std::exchange(unflushed_, {})) sink->Flush();
  FailAll(WithRetry(absl::UnavailableError(stop_reason_), kNoGangRetryMs));
  supervisor_.ShutdownAll(stop_reason_);
  PublishGang();
}

void Engine::PublishGang() {
  v1::ListRanksResponse description = supervisor_.Describe();
  description.set_steps(scheduler_.stats().steps);
  description.set_tokens_generated(scheduler_.stats().tokens_generated);
  const bool ready = description.ready();
  {
    const std::lock_guard lock(description_mutex_);
    description_ = std::move(description);
  }
  if (ready_.exchange(ready) != ready) options_.on_ready_change(ready);
}

void Engine::PublishStats() {
  const SchedulerStats& scheduler = scheduler_.stats();
  const BlockManager& blocks = scheduler_.blocks();
  counts_.set_waiting(static_cast<uint32_t>(scheduler_.num_waiting()));
  counts_.set_running(static_cast<uint32_t>(scheduler_.num_running()));
  counts_.set_paused(static_cast<uint32_t>(scheduler_.num_paused()));
  counts_.set_kv_tokens(uint64_t{blocks.num_blocks()} * blocks.block_size());
  counts_.set_kv_tokens_used(uint64_t{blocks.num_blocks() - blocks.num_free()} *
                             blocks.block_size());
  counts_.set_kv_tokens_cached(uint64_t{blocks.num_cached()} * blocks.block_size());
  counts_.set_steps(scheduler.steps);
  counts_.set_tokens_prefilled(scheduler.tokens_prefilled);
  counts_.set_tokens_generated(scheduler.tokens_generated);
  counts_.set_prefix_tokens_asked(scheduler.prefix_tokens_asked);
  counts_.set_prefix_tokens_hit(scheduler.prefix_tokens_hit);
  counts_.set_preemptions(scheduler.preemptions);
  counts_.set_swaps(scheduler.swaps);
  const std::lock_guard lock(description_mutex_);
  stats_ = counts_;
  description_.set_steps(scheduler.steps);
  description_.set_tokens_generated(scheduler.tokens_generated);
}

}  // namespace trireme
