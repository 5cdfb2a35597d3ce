#include "coordinator/gateway/generate_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/gateway/wire.h"

namespace trireme {
namespace {

// A client that reads more slowly than tokens come is given up when this much waits for it.
constexpr size_t kPendingBytesMax = 4 << 20;
// Unread messages of a continuation are merged up to this size, well below gRPC's receive limit.
constexpr size_t kMergedBytesMax = 64 << 10;

class FailedCall : public ResponseWriter {
 public:
  explicit FailedCall(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
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

ResponseWriter* GenerateCall::Start(grpc::CallbackServerContext* context, const ServedModel& model,
                                    Engine& engine, PreparedRequest prepared) {
  const std::shared_ptr<GenerateCall> call(
      new GenerateCall(context, model, engine, std::move(prepared)));
  const absl::Status status = call->Init();
  if (!status.ok()) return Fail(status);
  call->self_ = call;
  const ResolvedSampling& sampling = call->prepared_.sampling;
  engine.Submit(call->engine_id_,
                {.prompt = call->prepared_.prompt,
                 .sampling = sampling.step,
                 .max_tokens = sampling.max_tokens,
                 .stop_token_ids = sampling.stop_token_ids,
                 .n = sampling.n},
                call);
  return call.get();
}

ResponseWriter* GenerateCall::Fail(const absl::Status& status) { return new FailedCall(status); }

GenerateCall::GenerateCall(grpc::CallbackServerContext* context, const ServedModel& model,
                           Engine& engine, PreparedRequest prepared)
    : context_(context),
      model_(model),
      engine_(engine),
      prepared_(std::move(prepared)),
      engine_id_(engine.NewRequestId()),
      start_(Clock::now()),
      open_continuations_(prepared_.sampling.n) {}

absl::Status GenerateCall::Init() {
  for (uint32_t index = 0; index < prepared_.sampling.n; ++index) {
    ASSIGN_OR_RETURN(OutputText text, OutputText::Create(model_.tokenizer, prepared_.sampling));
    texts_.push_back(std::move(text));
  }
  return absl::OkStatus();
}

TokenSink::Verdict GenerateCall::OnToken(uint32_t index, const SequenceOutput& output) {
  return Enqueue(MakeResponse(index, output));
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
  const std::lock_guard lock(mutex_);
  if (end_.has_value()) return Verdict::kStopRequest;  // the client has gone
  if (!first_token_.has_value()) first_token_ = Clock::now();
  ++completion_tokens_;
  const bool last = response.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
  Append(std::move(response));
  if (pending_bytes_ > kPendingBytesMax) {
    pending_.clear();
    End(absl::ResourceExhaustedError(absl::StrCat("the client reads too slowly: more than ",
                                                  kPendingBytesMax, " bytes wait for it")));
    Pump();
    return Verdict::kStopRequest;
  }
  if (last && --open_continuations_ == 0) End(absl::OkStatus());
  Pump();
  return last ? Verdict::kStopSequence : Verdict::kContinue;
}

void GenerateCall::OnError(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  End(status);
  Pump();
}

void GenerateCall::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  if (!ok) {
    pending_.clear();
    End(absl::CancelledError("the client has gone"));
    engine_.Cancel(engine_id_);
  }
  Pump();
}

void GenerateCall::OnCancel() {
  const std::lock_guard lock(mutex_);
  pending_.clear();
  End(context_->deadline() <= std::chrono::system_clock::now()
          ? absl::DeadlineExceededError("the call's deadline has passed")
          : absl::CancelledError("the client cancelled the call"));
  engine_.Cancel(engine_id_);
  Pump();
}

void GenerateCall::OnDone() {
  std::shared_ptr<GenerateCall> self;  // outlives the lock
  const std::lock_guard lock(mutex_);
  self = std::move(self_);
}

void GenerateCall::Append(v1::GenerateResponse response) {
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
    if (pending_.empty() && end_.has_value() && end_->ok()) *response.mutable_usage() = MakeUsage();
    writing_bytes_ = SerializeMessage(response);
    writing_ = true;
    StartWrite(&writing_bytes_);
  } else if (end_.has_value()) {
    finished_ = true;
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
  usage.set_time_to_first_token_ms(Milliseconds(first_token_.value_or(start_) - start_));
  usage.set_total_ms(Milliseconds(Clock::now() - start_));
  return usage;
}

}  // namespace trireme
