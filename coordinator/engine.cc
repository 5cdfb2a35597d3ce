#include "coordinator/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "coordinator/retry_hint.h"

namespace trireme {
namespace {

// Between two messages of a stream, where tokens come faster.
constexpr std::chrono::milliseconds kFlushInterval{4};
// Of the gang timeout, for a gang that loads.
constexpr int kGangTimeoutsMax = 10;

double Milliseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

}  // namespace

Engine::Engine(EngineOptions options)
    : options_(std::move(options)),
      max_model_len_(options_.gang.max_model_len),
      default_model_len_(options_.gang.max_model_len),
      supervisor_(options_.gang) {
  replicas_.push_back(std::make_unique<Replica>(options_.replica));
}

Engine::~Engine() { Stop("the coordinator has stopped"); }

void Engine::Start() {
  CHECK(!thread_.joinable());
  gangs_return_until_ = Clock::now() + options_.gang_timeout;
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
  if (posted) return;
  sink->OnError(WithRetry(absl::UnavailableError("the coordinator has stopped"), kNoGangRetryMs));
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
  const bool posted = Post([this, id, stream, peer = std::move(peer)] {
    supervisor_.OnConnect(id, stream, peer, Clock::now());
  });
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

void Engine::OnWorkerLoads() {
  Post([this] {
    for (const auto& replica : replicas_) replica->WaitUntil(Clock::now() + options_.gang_timeout);
  });
}

void Engine::Drain(std::function<std::vector<GangEvent>()> find, const Drained& done) {
  const bool posted = Post([this, find = std::move(find), done] {
    std::vector<uint64_t> epochs;
    for (GangEvent& event : find()) {
      if (const auto* drains = std::get_if<GangDrains>(&event)) epochs.push_back(drains->epoch);
      HandleGangEvent(std::move(event));
    }
    done(std::move(epochs));
  });
  if (!posted) done({});
}

void Engine::DrainGang(uint64_t epoch, const Drained& done) {
  Drain([this, epoch] { return supervisor_.DrainGang(epoch); }, done);
}

void Engine::DrainHost(const std::string& host, const Drained& done) {
  Drain([this, host] { return supervisor_.DrainHost(host); }, done);
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
    EndDrained();
    for (const auto& replica : replicas_) SendPlans(*replica);
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
  std::optional<Clock::time_point> next;
  for (const auto& replica : replicas_) {
    for (const auto& deadline :
         {replica->step_deadline(), replica->slow_step(), replica->gang_deadline()}) {
      if (deadline.has_value()) next = std::min(next.value_or(*deadline), *deadline);
    }
  }
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
  CheckGangs(now);
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
  DropIdleReplicas();
}

void Engine::CheckGangs(Clock::time_point now) {
  std::vector<GangEvent> events;
  for (const auto& replica : replicas_) {
    if (replica->slow_step().has_value() && now >= *replica->slow_step()) {
      replica->ForgetSlowStep();
      const uint64_t step = replica->scheduler().oldest_step();
      LogWarning(absl::StrCat("step ", step, " of epoch ", replica->epoch(),
                              " is slow: ", supervisor_.Laggards(replica->epoch(), step)));
    }
    if (!replica->step_deadline().has_value() || now < *replica->step_deadline()) continue;
    const uint64_t step = replica->scheduler().oldest_step();
    events.push_back(supervisor_.LoseGang(
        replica->epoch(),
        absl::StrCat("it is stuck: no answer to step ", step, " within ",
                     std::chrono::duration<double>(options_.replica.step_timeout).count(),
                     " s (--step-timeout-s): ", supervisor_.Laggards(replica->epoch(), step))));
  }
  for (GangEvent& event : events) HandleGangEvent(std::move(event));
  for (GangEvent& event : supervisor_.CheckSilence(now)) HandleGangEvent(std::move(event));
  for (const auto& replica : replicas_) {
    if (!replica->gang_deadline().has_value() || now < *replica->gang_deadline()) continue;
    replica->GiveUp();
    const absl::Status status = WithRetry(
        absl::UnavailableError(absl::StrCat(
            "the workers were lost (", replica->lost_reason(), ") and none came back within ",
            std::chrono::duration<double>(options_.gang_timeout).count(),
            " s (--gang-timeout-s), nor loaded anything")),
        kNoGangRetryMs);
    for (const uint64_t id : RequestsOf(*replica)) FailRequest(id, status);
    PublishGangs();
  }
}

void Engine::SendPlans(Replica& replica) {
  while (std::optional<v1::StepPlan> plan = replica.Plan(Clock::now())) {
    supervisor_.SendPlan(*std::move(plan));
  }
}

// A gang that drains ends as soon as it owes no result, and nothing that only it can go on with.
void Engine::EndDrained() {
  std::vector<GangEvent> events;
  for (const auto& replica : replicas_) {
    if (!replica->draining().has_value()) continue;
    replica->SetFinishes(MustFinish(*replica));
    if (!replica->drained()) continue;
    events.push_back(supervisor_.ReleaseGang(replica->epoch(), *replica->draining()));
  }
  for (GangEvent& event : events) HandleGangEvent(std::move(event));
}

void Engine::DropIdleReplicas() {
  for (auto it = replicas_.begin(); it != replicas_.end() && replicas_.size() > 1;) {
    const Replica& replica = **it;
    if (replica.serves() || replica.awaits_gang() || replica.scheduler().num_sequences() > 0) {
      ++it;
      continue;
    }
    replica.AddTo(counts_);
    it = replicas_.erase(it);
  }
}

void Engine::HandleSubmit(uint64_t request_id, const GenerationRequest& request,
                          const std::shared_ptr<TokenSink>& sink) {
  const BlockHash root = CacheRoot(request);
  const absl::StatusOr<Replica*> replica = Admit(request, root);
  if (!replica.ok()) {
    counts_.set_requests_refused(counts_.requests_refused() + 1);
    sink->OnError(replica.status());
    return;
  }
  Request& entry = requests_[request_id];
  entry.sink = sink;
  entry.replica = *replica;
  if (request.begun.has_value() && !request.begun->version.empty()) {
    entry.version = request.begun->version;
  }
  std::vector<Sequence> siblings;
  for (uint32_t index = 0; index < request.n; ++index) {
    if (request.begun.has_value() && request.begun->over[index]) continue;
    Sequence& sequence = siblings.emplace_back(NewSequence(request, index));
    sequence.cache_root = root;
    owners_[sequence.id] = {.request_id = request_id, .index = index};
    entry.open_sequences.push_back(sequence.id);
  }
  entry.prompt_tokens = request.prompt.size() * siblings.size();
  prompt_tokens_ += entry.prompt_tokens;
  entry.replica->scheduler().Add(std::move(siblings));
}

Sequence Engine::NewSequence(const GenerationRequest& request, uint32_t index) {
  Sequence sequence;
  sequence.id = next_sequence_id_++;
  sequence.priority = request.priority;
  sequence.tenant_name = request.tenant;
  sequence.tokens = request.prompt;
  sequence.sampling = request.sampling;
  sequence.sampling.set_seed(request.sampling.seed() + index);
  if (index > 0) sequence.sampling.clear_prompt_logprobs();  // those of the first are the same
  sequence.max_tokens = request.max_tokens;
  sequence.stop_token_ids = request.stop_token_ids;
  if (request.begun.has_value()) {
    // As one that has lost its gang: what it has is computed again like a prompt.
    const std::vector<int32_t>& tokens = request.begun->tokens[index];
    sequence.num_prompt = static_cast<uint32_t>(request.prompt.size());
    sequence.tokens.insert(sequence.tokens.end(), tokens.begin(), tokens.end());
  }
  return sequence;
}

void Engine::HandlePause(uint64_t request_id) {
  const auto found = requests_.find(request_id);
  if (found == requests_.end() || found->second.give_up.has_value()) return;
  found->second.give_up = Clock::now() + options_.client_timeout;
  ++num_stalled_;
  Scheduler& scheduler = found->second.replica->scheduler();
  for (const uint64_t id : found->second.open_sequences) scheduler.Pause(id);
}

void Engine::HandleResume(uint64_t request_id) {
  const auto found = requests_.find(request_id);
  if (found == requests_.end() || !found->second.give_up.has_value()) return;
  found->second.give_up.reset();
  --num_stalled_;
  Scheduler& scheduler = found->second.replica->scheduler();
  for (const uint64_t id : found->second.open_sequences) scheduler.Resume(id);
}

void Engine::HandleGangEvent(GangEvent event) {
  if (const auto* ready = std::get_if<GangIsReady>(&event)) {
    HandleGangReady(*ready);
  } else if (const auto* lost = std::get_if<GangIsLost>(&event)) {
    HandleGangLost(*lost);
  } else if (const auto* drains = std::get_if<GangDrains>(&event)) {
    ReplicaOf(drains->epoch).Drain(drains->reason);
    RouteAgain(UnbegunRequests());
    PublishGangs();
  } else if (auto* result = std::get_if<v1::StepResult>(&event)) {
    HandleResult(std::move(*result));
  }
}

Replica& Engine::ReplicaOf(uint64_t epoch) const {
  const auto found = std::find_if(replicas_.begin(), replicas_.end(),
                                  [&](const auto& replica) { return replica->epoch() == epoch; });
  CHECK(found != replicas_.end());
  return **found;
}

void Engine::HandleGangReady(const GangIsReady& ready) {
  const GangCapacity& capacity = ready.capacity;
  Replica* const vacant = VacantReplica(ready);
  Replica& replica = vacant != nullptr
                         ? *vacant
                         : *replicas_.emplace_back(std::make_unique<Replica>(options_.replica));
  replica.Begin(capacity, ready.version);
  RouteAgain(UnbegunRequests());
  PublishGangs();
  const v1::ListRanksResponse described = Describe();
  const v1::Gang& gang = *described.gangs().rbegin();  // the newest
  LogInfo(absl::StrCat("gang ready, epoch ", capacity.epoch, ": ", gang.ranks_size(), " ranks (tp ",
                       gang.tensor_parallel_size(), ", pp ", gang.pipeline_parallel_size(), ", ",
                       gang.communicator(), "), ", capacity.kv_blocks, " KV blocks of ",
                       capacity.kv_block_size, " tokens, context ", capacity.max_model_len));
}

void Engine::HandleGangLost(const GangIsLost& lost) {
  Replica& replica = ReplicaOf(lost.epoch);
  const Clock::time_point now = Clock::now();
  const bool told_to_end = replica.draining().has_value();
  FailRequestsOf(
      replica.End(lost.reason,
                  {.give_up = now + options_.gang_timeout,
                   .latest = now + kGangTimeoutsMax * options_.gang_timeout},
                  lost.silent),
      absl::InternalError(absl::StrCat("the workers failed over this request, at least ",
                                       options_.replica.scheduler.gangs_lost_max,
                                       " times in a row; the last time: ", lost.reason)));
  const std::vector<uint64_t> requests = RequestsOf(replica);
  RouteAgain(requests);
  // The one that comes in its place is here, or nobody knows what it will be.
  if (told_to_end && supervisor_.has_gang() && RequestsOf(replica).empty()) replica.GiveUp();
  PublishGangs();
  const size_t wait = RequestsOf(replica).size();
  if (wait < requests.size()) {
    LogInfo(absl::StrCat(requests.size() - wait, " requests go on at other workers"));
  }
  if (wait > 0) LogWarning(absl::StrCat(wait, " requests wait for new workers"));
}

void Engine::HandleResult(v1::StepResult result) {
  Replica& replica = ReplicaOf(result.epoch());
  const absl::StatusOr<StepOutput> output = replica.Apply(std::move(result), Clock::now());
  if (!output.ok()) {
    HandleGangEvent(supervisor_.LoseGang(replica.epoch(), std::string(output.status().message())));
    return;
  }
  // The next plan first: the gang must not wait until the tokens of this one are delivered.
  SendPlans(replica);
  for (const v1::PromptLogprob& logprob : output->prompt_logprobs) DeliverPromptLogprob(logprob);
  for (const SequenceOutput& each : output->tokens) Deliver(each);
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
    Replica& replica = *requests_.at(request_id).replica;
    replica.load().AddFinished(output.num_sampled, Milliseconds(Clock::now().time_since_epoch()),
                               replica.scheduler().num_waiting() > 0);
    CloseSequence(sequence_id);
  }
}

TokenSink& Engine::Touch(uint64_t request_id) {
  Request& request = requests_.at(request_id);
  if (!request.version.has_value()) {
    request.version = request.replica->version();
    request.sink->OnVersion(*request.version);
  }
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
  Request& request = requests_.at(request_id);
  request.replica->scheduler().Cancel(sequence_id);
  owners_.erase(owner);
  std::erase(request.open_sequences, sequence_id);
  if (!request.open_sequences.empty()) return;
  counts_.set_requests_finished(counts_.requests_finished() + 1);
  CloseRequest(request_id);
}

void Engine::CloseRequest(uint64_t request_id) {
  const auto found = requests_.find(request_id);
  if (found == requests_.end()) return;
  for (const uint64_t id : found->second.open_sequences) {
    found->second.replica->scheduler().Cancel(id);
    owners_.erase(id);
  }
  if (found->second.give_up.has_value()) --num_stalled_;
  prompt_tokens_ -= found->second.prompt_tokens;
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
  PublishGangs();
}

void Engine::PublishGangs() {
  v1::ListRanksResponse description = supervisor_.Describe();
  uint32_t context = 0;
  uint32_t accepted = 0;
  for (v1::Gang& gang : *description.mutable_gangs()) {
    const Replica& replica = ReplicaOf(gang.epoch());
    gang.set_max_model_len(replica.scheduler().capacity()->max_model_len);
    gang.set_draining(replica.draining().has_value());
    context = std::max(context, gang.max_model_len());
    if (replica.accepts()) accepted = std::max(accepted, gang.max_model_len());
  }
  for (const auto& replica : replicas_) {
    if (replica->awaits_gang()) context = std::max(context, replica->capacity().max_model_len);
  }
  max_model_len_ = context > 0 ? context : options_.gang.max_model_len;
  default_model_len_ = accepted > 0 ? accepted : max_model_len_.load();
  const bool ready = description.ready();
  {
    const std::lock_guard lock(description_mutex_);
    description_ = std::move(description);
  }
  if (ready_.exchange(ready) != ready) options_.on_ready_change(ready);
}

void Engine::PublishStats() {
  v1::GetStatsResponse stats = counts_;
  for (const auto& replica : replicas_) replica->AddTo(stats);
  const std::lock_guard lock(description_mutex_);
  description_.set_steps(stats.steps());
  description_.set_tokens_generated(stats.tokens_generated());
  for (v1::Gang& gang : *description_.mutable_gangs()) {
    const Scheduler& scheduler = ReplicaOf(gang.epoch()).scheduler();
    gang.set_running(static_cast<uint32_t>(scheduler.num_running()));
    gang.set_waiting(static_cast<uint32_t>(scheduler.num_waiting()));
  }
  description_.clear_waiting();
  for (v1::WaitingGang& gang : supervisor_.WaitingGangs()) {
    *description_.add_waiting() = std::move(gang);
  }
  stats_ = std::move(stats);
}

}  // namespace trireme
