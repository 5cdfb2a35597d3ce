#include "coordinator/gateway/keyed_request.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

// About what a token takes in memory, beside what it has of log probabilities.
constexpr size_t kTokenBytes = sizeof(v1::JournaledToken) + sizeof(v1::SampledToken);

std::string ModelName(const ServedModel& model) {
  return absl::StrCat(model.name, " (", model.config.architecture, ", ",
                      model.config.NumParameters(), " parameters)");
}

// A journal is an outside input: what would make the engine or a worker fail is refused.
absl::Status CheckRestored(const ServedModel& model, const PreparedRequest& prepared,
                           const JournalEntry& entry) {
  const ResolvedSampling& sampling = prepared.sampling;
  const auto known = [&](int32_t id) {
    return id >= 0 && static_cast<uint32_t>(id) < model.vocab_size();
  };
  bool good = !prepared.prompt.empty() && sampling.max_tokens > 0 && sampling.n > 0 &&
              sampling.best_of >= sampling.n && sampling.best_of <= 128 &&
              CheckStepSampling(sampling.step, model.vocab_size()).ok();
  good = good && std::all_of(prepared.prompt.begin(), prepared.prompt.end(), known);
  std::vector<uint32_t> counts(good ? sampling.best_of : 0);
  // Without a version, nobody would know what they may go on with.
  good = good && (entry.tokens.empty() || !entry.version.empty());
  for (const v1::JournaledToken& token : entry.tokens) {
    good = good && token.index() < counts.size() && known(token.token().token_id()) &&
           ++counts[token.index()] <= sampling.max_tokens;
  }
  if (good) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "what the journal has under this idempotency key is damaged; ask again with another key");
}

}  // namespace

// One submission to the engine. What it says after the next one has begun is not heard.
class KeyedRequest::Run : public TokenSink {
 public:
  Run(std::shared_ptr<KeyedRequest> request, uint64_t number)
      : request_(std::move(request)), number_(number) {}
  void OnVersion(const std::string& version) override { request_->OnVersion(number_, version); }
  // Requests with a key do not ask for them.
  Verdict OnPromptLogprob(const v1::PromptLogprob&) override { return Verdict::kContinue; }
  Verdict OnToken(uint32_t index, const SequenceOutput& output) override {
    return request_->OnToken(number_, index, output);
  }
  void OnError(const absl::Status& status) override { request_->OnError(number_, status); }
  void Flush() override { request_->Flush(); }

 private:
  const std::shared_ptr<KeyedRequest> request_;
  const uint64_t number_;
};

// What one call may do to the request, while it is the last one. Takes no lock: calls use it under
// theirs. Does not keep the request, which keeps its last call: a forgotten one goes.
class KeyedRequest::Source : public AnswerSource {
 public:
  Source(std::weak_ptr<KeyedRequest> request, uint64_t number)
      : request_(std::move(request)), number_(number) {}
  void Pause() override {
    if (const auto request = Mine()) request->engine_.Pause(request->engine_id_);
  }
  void Resume() override {
    if (const auto request = Mine()) request->engine_.Resume(request->engine_id_);
  }
  void Leave() override {
    if (const auto request = Mine()) request->left_ = number_;
  }
  bool outlives_client() const override { return true; }

 private:
  std::shared_ptr<KeyedRequest> Mine() const {
    std::shared_ptr<KeyedRequest> request = request_.lock();
    return request != nullptr && request->attached_ == number_ ? request : nullptr;
  }

  const std::weak_ptr<KeyedRequest> request_;
  const uint64_t number_;
};

KeyedRequest::KeyedRequest(const ServedModel& model, Engine& engine, PreparedRequest prepared)
    : model_(model),
      engine_(engine),
      prepared_(std::move(prepared)),
      bytes_(prepared_.prompt.size() * sizeof(int32_t)),
      last_used_(Clock::now()),
      over_(prepared_.sampling.best_of) {}

absl::StatusOr<std::shared_ptr<KeyedRequest>> KeyedRequest::Restore(const ServedModel& model,
                                                                    Engine& engine,
                                                                    const JournalEntry& entry) {
  const v1::JournaledRequest& from = entry.request;
  if (from.model() != ModelName(model)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the answer under this idempotency key was begun with model ", from.model(),
                     ", this is ", ModelName(model), "; ask again with another key"));
  }
  PreparedRequest prepared;
  prepared.prompt.assign(from.prompt().begin(), from.prompt().end());
  prepared.scheduling = from.scheduling();
  prepared.fingerprint = from.fingerprint();
  ResolvedSampling& sampling = prepared.sampling;
  sampling.step = from.sampling();
  sampling.max_tokens = from.max_tokens();
  sampling.n = from.n();
  sampling.best_of = from.best_of();
  sampling.stop.assign(from.stop().begin(), from.stop().end());
  sampling.stop_token_ids.assign(from.stop_token_ids().begin(), from.stop_token_ids().end());
  sampling.skip_special_tokens = from.skip_special_tokens();
  if (absl::Status status = CheckRestored(model, prepared, entry); !status.ok()) {
    return status;
  }
  auto request = std::make_shared<KeyedRequest>(model, engine, std::move(prepared));
  request->journal_id_ = entry.id;
  request->version_ = entry.version;
  request->tokens_ = entry.tokens;
  request->journaled_ = entry.tokens.size();
  if (!entry.failure.empty()) request->failure_ = absl::InternalError(entry.failure);
  request->failure_journaled_ = !entry.failure.empty();
  for (const v1::JournaledToken& token : entry.tokens) {
    request->bytes_ += kTokenBytes + token.ByteSizeLong();
  }
  return request;
}

v1::JournaledRequest KeyedRequest::ToJournal() const {
  const ResolvedSampling& sampling = prepared_.sampling;
  v1::JournaledRequest to;
  to.set_fingerprint(prepared_.fingerprint);
  to.set_model(ModelName(model_));
  to.mutable_prompt()->Add(prepared_.prompt.begin(), prepared_.prompt.end());
  *to.mutable_sampling() = sampling.step;
  to.set_max_tokens(sampling.max_tokens);
  to.set_n(sampling.n);
  to.set_best_of(sampling.best_of);
  for (const std::string& stop : sampling.stop) to.add_stop(stop);
  to.mutable_stop_token_ids()->Add(sampling.stop_token_ids.begin(), sampling.stop_token_ids.end());
  to.set_skip_special_tokens(sampling.skip_special_tokens);
  *to.mutable_scheduling() = prepared_.scheduling;
  return to;
}

void KeyedRequest::Attach(const std::shared_ptr<GenerateCall>& call, const PreparedRequest& asked) {
  const std::lock_guard attaching(attach_mutex_);
  last_used_ = Clock::now();
  const uint64_t number = attached_ + 1;
  PreparedRequest prepared = prepared_;
  prepared.request_id = asked.request_id;
  prepared.tokens_received = asked.tokens_received;
  auto source = std::make_unique<Source>(weak_from_this(), number);
  if (!call->Begin(std::move(prepared), std::move(source)).ok()) return;
  attached_ = number;
  if (call->over()) left_ = number;  // its client went before that could be said
  CatchUp(call);
  Go(*call);
}

void KeyedRequest::CatchUp(const std::shared_ptr<GenerateCall>& call) {
  std::vector<v1::JournaledToken> some;
  std::vector<uint32_t> counts(prepared_.sampling.best_of);
  size_t given = 0;
  while (true) {
    for (const v1::JournaledToken& token : some) {
      const SequenceOutput output{.token = token.token(),
                                  .finish_reason = token.finish_reason(),
                                  .num_sampled = ++counts[token.index()],
                                  .cached_tokens = token.cached_tokens()};
      const bool over = call->OnToken(token.index(), output) != TokenSink::Verdict::kContinue;
      const std::lock_guard lock(mutex_);
      if (over) over_[token.index()] = true;
    }
    given += some.size();
    const std::lock_guard lock(mutex_);
    if (given < tokens_.size()) {  // without the lock, which the engine waits for
      some.assign(tokens_.begin() + static_cast<std::ptrdiff_t>(given), tokens_.end());
      continue;
    }
    Show(call);
    return;
  }
}

void KeyedRequest::Show(const std::shared_ptr<GenerateCall>& call) {
  const std::shared_ptr<GenerateCall> before = std::exchange(call_, call);
  if (before != nullptr) {
    before->OnError(absl::AbortedError("another call with this idempotency key goes on with it"));
  }
  give_up_.reset();
  if (failure_.has_value()) call->OnError(*failure_);
  if (running_) engine_.Resume(engine_id_);  // the call before may not have been read
}

void KeyedRequest::Go(GenerateCall& call) {
  std::optional<GenerationRequest> next;
  std::shared_ptr<Run> run;
  {
    const std::lock_guard lock(mutex_);
    if (!running_ && !failure_.has_value() && !finished()) {
      next = NextRun();
      running_ = true;
      engine_id_ = engine_.NewRequestId();
      run = std::make_shared<Run>(shared_from_this(), ++run_);
    }
  }
  // Without the lock: an engine that has stopped says so at once.
  if (next.has_value()) engine_.Submit(engine_id_, *std::move(next), run);
  call.RepeatPause();
  call.Flush();
}

GenerationRequest KeyedRequest::NextRun() {
  GenerationRequest request = ToGenerationRequest(prepared_);
  BegunAnswer begun{.version = version_, .tokens = {}, .over = over_};
  begun.tokens.resize(request.n);
  for (const v1::JournaledToken& token : tokens_) {
    begun.tokens[token.index()].push_back(token.token().token_id());
  }
  if (!tokens_.empty()) request.begun = std::move(begun);
  return request;
}

bool KeyedRequest::finished() const {
  return std::find(over_.begin(), over_.end(), false) == over_.end();
}

TokenSink::Verdict KeyedRequest::OnToken(uint64_t run, uint32_t index,
                                         const SequenceOutput& output) {
  const std::lock_guard lock(mutex_);
  if (run != run_ || !running_) return TokenSink::Verdict::kStopRequest;
  v1::JournaledToken& token = tokens_.emplace_back();
  token.set_index(index);
  *token.mutable_token() = output.token;
  token.mutable_token()->clear_sequence_id();
  token.set_finish_reason(output.finish_reason);
  token.set_cached_tokens(output.cached_tokens);
  bytes_ += kTokenBytes + token.ByteSizeLong();
  last_used_ = Clock::now();
  const TokenSink::Verdict verdict = call_->OnToken(index, output);
  if (verdict != TokenSink::Verdict::kContinue) over_[index] = true;
  if (finished()) running_ = false;
  return verdict;
}

void KeyedRequest::OnVersion(uint64_t run, const std::string& version) {
  const std::lock_guard lock(mutex_);
  if (run == run_) version_ = version;
}

void KeyedRequest::OnError(uint64_t run, const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  if (run != run_ || !running_) return;
  running_ = false;
  last_used_ = Clock::now();
  if (absl::IsInternal(status)) failure_ = status;
  call_->OnError(status);
}

void KeyedRequest::Flush() {
  const std::lock_guard lock(mutex_);
  if (call_ != nullptr) call_->Flush();
}

void KeyedRequest::Hold() {
  const std::lock_guard lock(mutex_);
  ++holds_;
}

void KeyedRequest::Release() {
  const std::lock_guard lock(mutex_);
  --holds_;
}

void KeyedRequest::Abandon(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(running_, false)) engine_.Cancel(engine_id_);
  ++run_;
  failure_ = status;  // for a call that has found it already
  if (call_ != nullptr) call_->OnError(status);
}

void KeyedRequest::CheckClient(Clock::time_point now, Clock::duration grace) {
  const std::lock_guard lock(mutex_);
  if (!running_ || left_ != attached_) return;
  if (!give_up_.has_value()) give_up_ = now + grace;
  if (now < *give_up_) return;
  running_ = false;
  give_up_.reset();
  last_used_ = now;
  ++run_;
  engine_.Cancel(engine_id_);
}

std::optional<JournalBatch> KeyedRequest::TakeNews() {
  const std::lock_guard lock(mutex_);
  const bool failed = failure_.has_value() && absl::IsInternal(*failure_) && !failure_journaled_;
  if ((journaled_ == tokens_.size() && !failed) || journal_id_ == 0) return std::nullopt;
  JournalBatch batch{.id = journal_id_, .first = journaled_, .version = version_, .tokens = {}};
  for (; journaled_ < tokens_.size(); ++journaled_)
    *batch.tokens.add_tokens() = tokens_[journaled_];
  if (failed) batch.tokens.set_failure(std::string(failure_->message()));
  failure_journaled_ = failure_journaled_ || failed;
  return batch;
}

bool KeyedRequest::idle() const {
  const std::lock_guard lock(mutex_);
  return at_rest();
}

bool KeyedRequest::empty() const {
  const std::lock_guard lock(mutex_);
  return at_rest() && tokens_.empty() && !failure_.has_value();
}

}  // namespace trireme
