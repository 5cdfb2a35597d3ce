#include "coordinator/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"

namespace trireme {

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
  Post([this, request_id] { CloseRequest(request_id); });
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
    HandleGangEvent(supervisor_.OnMessage(stream_id, message));
  });
}

void Engine::OnWorkerDisconnect(uint64_t stream_id, std::string why) {
  Post([this, stream_id, why = std::move(why)] {
    HandleGangEvent(supervisor_.OnDisconnect(stream_id, why));
  });
}

v1::ListRanksResponse Engine::Describe() const {
  const std::lock_guard lock(description_mutex_);
  return description_;
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
    SendNextPlan();
  }
  ShutDown();
}

std::vector<Engine::Event> Engine::NextEvents() {
  std::unique_lock lock(events_mutex_);
  const auto some = [this] { return !events_.empty(); };
  // At most one of the two deadlines is set: steps need a gang.
  const auto deadline = step_deadline_.has_value() ? step_deadline_ : gang_deadline_;
  if (deadline.has_value()) {
    events_ready_.wait_until(lock, *deadline, some);
  } else {
    events_ready_.wait(lock, some);
  }
  return std::exchange(events_, {});
}

void Engine::CheckDeadlines() {
  const Clock::time_point now = Clock::now();
  if (step_deadline_.has_value() && now >= *step_deadline_) {
    step_deadline_.reset();
    HandleGangEvent(supervisor_.LoseGang(absl::StrCat(
        "it is stuck: no answer to a step within ",
        std::chrono::duration<double>(options_.step_timeout).count(), " s (--step-timeout-s)")));
  }
  if (gang_deadline_.has_value() && now >= *gang_deadline_) {
    gang_deadline_.reset();
    FailAll(absl::UnavailableError(
        absl::StrCat("the workers were lost (", gang_lost_reason_, ") and none came back within ",
                     std::chrono::duration<double>(options_.gang_timeout).count(), " s")));
  }
}

void Engine::SendNextPlan() {
  std::optional<v1::StepPlan> plan = scheduler_.Plan();
  if (!plan.has_value()) return;
  supervisor_.SendPlan(*std::move(plan));
  step_deadline_ = Clock::now() + options_.step_timeout;
}

void Engine::HandleSubmit(uint64_t request_id, const GenerationRequest& request,
                          const std::shared_ptr<TokenSink>& sink) {
  const absl::Status admitted = CheckAdmission(request);
  if (!admitted.ok()) {
    sink->OnError(admitted);
    return;
  }
  Request& entry = requests_[request_id];
  entry.sink = sink;
  for (uint32_t index = 0; index < request.n; ++index) {
    Sequence sequence;
    sequence.id = next_sequence_id_++;
    sequence.tokens = request.prompt;
    sequence.sampling = request.sampling;
    sequence.sampling.set_seed(request.sampling.seed() + index);
    sequence.max_tokens = request.max_tokens;
    sequence.stop_token_ids = request.stop_token_ids;
    owners_[sequence.id] = {.request_id = request_id, .index = index};
    entry.open_sequences.push_back(sequence.id);
    scheduler_.Add(std::move(sequence));
  }
}

absl::Status Engine::CheckAdmission(const GenerationRequest& request) const {
  if (!scheduler_.has_gang()) {
    return absl::UnavailableError(
        absl::StrCat("no workers are ready to serve; ", options_.worker_hint));
  }
  const uint64_t tokens_max = uint64_t{request.max_tokens} + request.prompt.size();
  if (tokens_max > max_model_len()) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and max_tokens come to ", tokens_max,
                                                   " tokens, the workers serve a context of ",
                                                   max_model_len()));
  }
  const size_t places = options_.scheduler.max_num_seqs + options_.max_waiting;
  const size_t taken = scheduler_.num_running() + scheduler_.num_waiting();
  if (taken + request.n > places) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", scheduler_.num_waiting(), " sequences wait and ",
                     scheduler_.num_running(), " run; try again later, or raise --max-waiting (",
                     options_.max_waiting, ")"));
  }
  return absl::OkStatus();
}

void Engine::HandleGangEvent(GangEvent event) {
  if (const auto* ready = std::get_if<GangIsReady>(&event)) {
    HandleGangReady(ready->capacity);
  } else if (const auto* lost = std::get_if<GangIsLost>(&event)) {
    HandleGangLost(lost->reason);
  } else if (const auto* result = std::get_if<v1::StepResult>(&event)) {
    HandleResult(*result);
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
  gang_deadline_ = Clock::now() + options_.gang_timeout;
  gang_lost_reason_ = reason;
  max_model_len_ = options_.gang.max_model_len;
  FailRequestsOf(scheduler_.GangLost(),
                 absl::InternalError(absl::StrCat(
                     "the workers failed ", options_.scheduler.gangs_lost_max,
                     " times while they computed this request; the last time: ", reason)));
  PublishGang();
  if (!requests_.empty()) {
    LogWarning(absl::StrCat(requests_.size(), " requests wait for new workers"));
  }
}

void Engine::HandleResult(const v1::StepResult& result) {
  const absl::StatusOr<std::vector<SequenceOutput>> outputs = scheduler_.Apply(result);
  if (!outputs.ok()) {
    HandleGangEvent(supervisor_.LoseGang(std::string(outputs.status().message())));
    return;
  }
  if (!scheduler_.plan_in_flight()) step_deadline_.reset();
  {
    const std::lock_guard lock(description_mutex_);
    description_.set_steps(scheduler_.steps());
    description_.set_tokens_generated(scheduler_.tokens_generated());
  }
  for (const SequenceOutput& output : *outputs) Deliver(output);
}

void Engine::Deliver(const SequenceOutput& output) {
  const uint64_t sequence_id = output.token.sequence_id();
  const auto owner = owners_.find(sequence_id);
  if (owner == owners_.end()) return;  // its request was stopped by an output of this step
  const uint64_t request_id = owner->second.request_id;
  TokenSink& sink = *requests_.at(request_id).sink;
  const TokenSink::Verdict verdict = sink.OnToken(owner->second.index, output);
  if (verdict == TokenSink::Verdict::kStopRequest) {
    CloseRequest(request_id);
  } else if (verdict == TokenSink::Verdict::kStopSequence ||
             output.finish_reason != v1::FINISH_REASON_UNSPECIFIED) {
    CloseSequence(sequence_id);
  }
}

void Engine::CloseSequence(uint64_t sequence_id) {
  scheduler_.Cancel(sequence_id);
  const auto owner = owners_.find(sequence_id);
  const uint64_t request_id = owner->second.request_id;
  owners_.erase(owner);
  Request& request = requests_.at(request_id);
  std::erase(request.open_sequences, sequence_id);
  if (request.open_sequences.empty()) requests_.erase(request_id);
}

void Engine::CloseRequest(uint64_t request_id) {
  const auto found = requests_.find(request_id);
  if (found == requests_.end()) return;
  for (const uint64_t id : found->second.open_sequences) {
    scheduler_.Cancel(id);
    owners_.erase(id);
  }
  requests_.erase(found);
}

void Engine::FailRequest(uint64_t request_id, const absl::Status& status) {
  const std::shared_ptr<TokenSink> sink = requests_.at(request_id).sink;
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
  FailAll(absl::UnavailableError(stop_reason_));
  supervisor_.ShutdownAll(stop_reason_);
  PublishGang();
}

void Engine::PublishGang() {
  v1::ListRanksResponse description = supervisor_.Describe();
  description.set_steps(scheduler_.steps());
  description.set_tokens_generated(scheduler_.tokens_generated());
  const bool ready = description.ready();
  {
    const std::lock_guard lock(description_mutex_);
    description_ = std::move(description);
  }
  if (ready_.exchange(ready) != ready) options_.on_ready_change(ready);
}

}  // namespace trireme
