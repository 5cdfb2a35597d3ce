#include "coordinator/gateway/generate_call.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/gateway/wire.h"
#include "coordinator/retry_hint.h"

namespace trireme {
namespace {

// A client that reads more slowly than tokens come is paused when this much waits for it, and goes
// on when little is left. What comes after the pause is bounded by the plans in flight.
constexpr size_t kPauseBytes = 256 << 10;
constexpr size_t kResumeBytes = 64 << 10;
// Unread messages of a continuation are merged up to this size, well below gRPC's receive limit.
constexpr size_t kMergedBytesMax = 64 << 10;

// The engine's clock, of a deadline that may be infinitely far away.
std::optional<std::chrono::steady_clock::time_point> SteadyDeadline(
    const grpc::CallbackServerContext& context) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return std::nullopt;
  return std::chrono::steady_clock::now() + left;
}

// When to try again, if the status says so: for people, and for gRPC's own retries.
void AddRetryAfter(const absl::Status& status, grpc::CallbackServerContext& context) {
  const auto after = status.GetPayload(kRetryAfterMs);
  int64_t after_ms = 0;
  if (!after.has_value() || !absl::SimpleAtoi(std::string(*after), &after_ms)) return;
  context.AddTrailingMetadata("retry-after", absl::StrCat((after_ms + 999) / 1000));
  context.AddTrailingMetadata("grpc-retry-pushback-ms", absl::StrCat(after_ms));
}

// A request that ends with its call.
class EngineRequest : public AnswerSource {
 public:
  EngineRequest(Engine& engine, uint64_t id) : engine_(engine), id_(id) {}
  void Pause() override { engine_.Pause(id_); }
  void Resume() override { engine_.Resume(id_); }
  void Leave() override { engine_.Cancel(id_); }
  bool outlives_client() const override { return false; }

 private:
  Engine& engine_;
  const uint64_t id_;
};

double Milliseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

void FillLogprob(const Tokenizer& tokenizer, int32_t id, float logprob, v1::TokenLogprob& entry) {
  entry.set_token_id(id);
  entry.set_logprob(logprob);
  entry.set_token(std::string(tokenizer.TokenBytes(id)));
}

}  // namespace

GenerationRequest ToGenerationRequest(const PreparedRequest& prepared) {
  const ResolvedSampling& sampling = prepared.sampling;
  v1::StepSampling step = sampling.step;
  if (sampling.best_of > sampling.n && !step.has_logprobs()) step.set_logprobs(0);
  GenerationRequest request;
  request.prompt = prepared.prompt;
  request.sampling = std::move(step);
  request.max_tokens = sampling.max_tokens;
  request.stop_token_ids = sampling.stop_token_ids;
  request.n = sampling.best_of;
  request.priority = prepared.scheduling.priority();
  request.tenant = prepared.scheduling.tenant();
  request.cache_salt = prepared.scheduling.cache_salt();
  return request;
}

std::shared_ptr<GenerateCall> GenerateCall::Create(grpc::CallbackServerContext* context,
                                                   const ServedModel& model) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(context, model));
  call->self_ = call;
  return call;
}

GenerateCall::GenerateCall(grpc::CallbackServerContext* context, const ServedModel& model)
    : context_(context), model_(model), start_(Clock::now()) {}

void GenerateCall::Submit(Engine& engine, PreparedRequest prepared) {
  const uint64_t id = engine.NewRequestId();
  GenerationRequest request = ToGenerationRequest(prepared);
  {
    const std::lock_guard lock(mutex_);
    if (end_.has_value()) return;  // gRPC may have taken the context back
    request.deadline = SteadyDeadline(*context_);
  }
  if (!Begin(std::move(prepared), std::make_unique<EngineRequest>(engine, id)).ok()) return;
  engine.Submit(id, std::move(request), shared_from_this());
  if (over()) engine.Cancel(id);  // the client went before there was anything to cancel
}

absl::Status GenerateCall::Begin(PreparedRequest prepared, std::unique_ptr<AnswerSource> source) {
  const std::lock_guard lock(mutex_);
  if (end_.has_value()) return *end_;
  prepared_ = std::move(prepared);
  source_ = std::move(source);
  absl::Status status = MakeTexts();
  if (!status.ok()) {
    End(status);
    Pump();
  }
  return status;
}

bool GenerateCall::over() {
  const std::lock_guard lock(mutex_);
  return end_.has_value();
}

absl::Status GenerateCall::MakeTexts() {
  const ResolvedSampling& sampling = prepared_.sampling;
  num_tokens_.resize(sampling.best_of);
  open_continuations_ = sampling.best_of;
  if (sampling.best_of > sampling.n) {
    candidates_.resize(sampling.best_of);
    logprobs_.resize(sampling.best_of);
  }
  for (uint32_t index = 0; index < sampling.best_of; ++index) {
    ASSIGN_OR_RETURN(OutputText text, OutputText::Create(model_.tokenizer, prepared_.sampling));
    texts_.push_back(std::move(text));
  }
  return absl::OkStatus();
}

TokenSink::Verdict GenerateCall::OnToken(uint32_t index, const SequenceOutput& output) {
  v1::GenerateResponse response = MakeResponse(index, output);
  {
    const std::lock_guard lock(mutex_);
    if (end_.has_value() && !source_->outlives_client()) return Verdict::kStopRequest;
    if (!first_token_.has_value()) first_token_ = Clock::now();
    ++completion_tokens_;
    if (index == 0) cached_tokens_ = output.cached_tokens;
  }
  if (!candidates_.empty()) return Collect(std::move(response), output.token.logprob());
  return Enqueue(std::move(response));
}

TokenSink::Verdict GenerateCall::OnPromptLogprob(const v1::PromptLogprob& logprob) {
  v1::GenerateResponse response;
  v1::LogprobEntry& entry = *response.add_prompt_logprobs();
  FillLogprob(model_.tokenizer, prepared_.prompt[logprob.position()], logprob.logprob(),
              *entry.mutable_chosen());
  const int count = std::min(logprob.top_ids_size(), logprob.top_logprobs_size());
  for (int i = 0; i < count; ++i) {
    FillLogprob(model_.tokenizer, logprob.top_ids(i), logprob.top_logprobs(i), *entry.add_top());
  }
  const std::lock_guard lock(mutex_);
  if (end_.has_value()) return Verdict::kStopRequest;
  Append(std::move(response));
  return Verdict::kContinue;
}

TokenSink::Verdict GenerateCall::Collect(v1::GenerateResponse response, float logprob) {
  v1::GenerateResponse& candidate = candidates_[response.index()];
  logprobs_[response.index()] += logprob;
  candidate.set_index(response.index());
  candidate.mutable_text()->append(response.text());
  candidate.mutable_token_ids()->MergeFrom(response.token_ids());
  candidate.mutable_logprobs()->MergeFrom(response.logprobs());
  candidate.set_finish_reason(response.finish_reason());
  if (response.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) return Verdict::kContinue;
  const auto open = [](const v1::GenerateResponse& each) {
    return each.finish_reason() == v1::FINISH_REASON_UNSPECIFIED;
  };
  if (std::none_of(candidates_.begin(), candidates_.end(), open)) SendBest();
  return Verdict::kStopSequence;
}

void GenerateCall::SendBest() {
  std::vector<uint32_t> order(candidates_.size());
  std::iota(order.begin(), order.end(), 0);
  const auto mean = [&](uint32_t i) {
    return logprobs_[i] / std::max(1, candidates_[i].token_ids_size());
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return mean(a) > mean(b); });
  const std::lock_guard lock(mutex_);
  for (uint32_t index = 0; index < prepared_.sampling.n; ++index) {
    v1::GenerateResponse& best = candidates_[order[index]];
    best.set_index(index);
    if (!prepared_.sampling.step.has_logprobs()) best.clear_logprobs();
    if (HasReceived(index, 1)) {  // then all of it: it comes in one message
      v1::GenerateResponse last;
      last.set_index(index);
      last.set_finish_reason(best.finish_reason());
      best = std::move(last);
    }
    Append(std::move(best));
  }
  End(absl::OkStatus());
}

void GenerateCall::Flush() {
  const std::lock_guard lock(mutex_);
  Pump();
}

v1::GenerateResponse GenerateCall::MakeResponse(uint32_t index, const SequenceOutput& output) {
  v1::GenerateResponse response;
  response.set_index(index);
  const v1::SampledToken& token = output.token;
  response.add_token_ids(token.token_id());
  if (prepared_.sampling.step.has_logprobs()) {
    v1::LogprobEntry& entry = *response.add_logprobs();
    FillLogprob(model_.tokenizer, token.token_id(), token.logprob(), *entry.mutable_chosen());
    const int count = std::min(token.top_ids_size(), token.top_logprobs_size());
    for (int i = 0; i < count; ++i) {
      FillLogprob(model_.tokenizer, token.top_ids(i), token.top_logprobs(i), *entry.add_top());
    }
  }
  // The token that ends the text is not part of the text.
  OutputText& text = texts_[index];
  StopStrings::Result piece;
  if (output.finish_reason != v1::FINISH_REASON_STOP) piece = text.Append(token.token_id());
  if (output.finish_reason != v1::FINISH_REASON_UNSPECIFIED && !piece.stopped) {
    const StopStrings::Result last = text.Finish();
    piece.text += last.text;
    piece.stopped = last.stopped;
  }
  response.set_text(std::move(piece.text));
  response.set_finish_reason(piece.stopped ? v1::FINISH_REASON_STOP : output.finish_reason);
  return response;
}

TokenSink::Verdict GenerateCall::Enqueue(v1::GenerateResponse response) {
  const bool last = response.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
  std::optional<v1::GenerateResponse> unseen = Unseen(std::move(response));
  const std::lock_guard lock(mutex_);
  if (unseen.has_value()) Append(*std::move(unseen));
  if (last && --open_continuations_ == 0) End(absl::OkStatus());
  if (pending_bytes_ > kPauseBytes && !paused_) {
    paused_ = true;
    source_->Pause();
  }
  return last ? Verdict::kStopSequence : Verdict::kContinue;
}

std::optional<v1::GenerateResponse> GenerateCall::Unseen(v1::GenerateResponse response) {
  const uint32_t index = response.index();
  if (!HasReceived(index, ++num_tokens_[index])) return response;
  if (response.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) return std::nullopt;
  v1::GenerateResponse last;
  last.set_index(index);
  last.set_finish_reason(response.finish_reason());
  return last;
}

bool GenerateCall::HasReceived(uint32_t index, uint32_t tokens) const {
  const std::vector<uint32_t>& received = prepared_.tokens_received;
  return index < received.size() && tokens <= received[index];
}

void GenerateCall::RepeatPause() {
  const std::lock_guard lock(mutex_);
  if (paused_) source_->Pause();
}

void GenerateCall::OnError(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  if (paused_) pending_.clear();  // it would never be read
  End(status);
  Pump();
}

void GenerateCall::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  if (!ok) Leave(absl::CancelledError("the client has gone"));
  Pump();
}

void GenerateCall::OnCancel() {
  const std::lock_guard lock(mutex_);
  Leave(context_->deadline() <= std::chrono::system_clock::now()
            ? absl::DeadlineExceededError("the call's deadline has passed")
            : absl::CancelledError("the client cancelled the call"));
  Pump();
}

void GenerateCall::OnDone() {
  std::shared_ptr<GenerateCall> self;  // outlives the lock
  const std::lock_guard lock(mutex_);
  self = std::move(self_);
}

void GenerateCall::Leave(const absl::Status& status) {
  pending_.clear();
  pending_bytes_ = 0;
  End(status);
  if (source_ == nullptr) return;  // not begun
  if (std::exchange(paused_, false)) source_->Resume();
  source_->Leave();
}

void GenerateCall::Append(v1::GenerateResponse response) {
  if (end_.has_value()) return;
  const size_t bytes = response.ByteSizeLong();
  pending_bytes_ += bytes;
  const auto same = std::find_if(pending_.rbegin(), pending_.rend(), [&](const auto& waiting) {
    return waiting.index() == response.index();
  });
  if (same == pending_.rend() || same->ByteSizeLong() + bytes > kMergedBytesMax) {
    pending_.push_back(std::move(response));
    return;
  }
  same->mutable_text()->append(response.text());
  same->mutable_token_ids()->MergeFrom(response.token_ids());
  same->mutable_logprobs()->MergeFrom(response.logprobs());
  same->mutable_prompt_logprobs()->MergeFrom(response.prompt_logprobs());
  same->set_finish_reason(response.finish_reason());
}

// Starts the next write or, after the last, ends the call.
void GenerateCall::Pump() {
  if (writing_ || finished_) return;
  if (!pending_.empty()) {
    v1::GenerateResponse response = std::move(pending_.front());
    pending_.pop_front();
    pending_bytes_ -= std::min(pending_bytes_, response.ByteSizeLong());
    if (pending_.empty()) pending_bytes_ = 0;
    if (paused_ && pending_bytes_ < kResumeBytes) {
      paused_ = false;
      source_->Resume();
    }
    if (pending_.empty() && end_.has_value() && end_->ok()) *response.mutable_usage() = MakeUsage();
    writing_bytes_ = SerializeMessage(response);
    writing_ = true;
    StartWrite(&writing_bytes_);
  } else if (end_.has_value()) {
    finished_ = true;
    AddRetryAfter(*end_, *context_);
    Finish(ToGrpcStatus(*end_));
  }
}

void GenerateCall::End(const absl::Status& status) {
  if (end_.has_value()) return;
  end_ = status;
  LogDebug(absl::StrCat("request ", prepared_.request_id, ": ", prepared_.prompt.size(),
                        " prompt tokens, ", completion_tokens_, " completion tokens, ",
                        Milliseconds(Clock::now() - start_), " ms, ", status.ToString()));
}

v1::Usage GenerateCall::MakeUsage() const {
  v1::Usage usage;
  usage.set_prompt_tokens(static_cast<uint32_t>(prepared_.prompt.size()));
  usage.set_completion_tokens(completion_tokens_);
  usage.set_cached_tokens(cached_tokens_);
  usage.set_time_to_first_token_ms(Milliseconds(first_token_.value_or(start_) - start_));
  usage.set_total_ms(Milliseconds(Clock::now() - start_));
  return usage;
}

}  // namespace trireme
