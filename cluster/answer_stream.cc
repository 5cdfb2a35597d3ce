#include "cluster/answer_stream.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <mutex>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kFirstWait{250};
constexpr std::chrono::milliseconds kLongestWait{2000};
constexpr std::chrono::seconds kForgetTimeout{2};

std::string DrawKey() {
  std::random_device device;
  return absl::StrFormat("%08x%08x%08x%08x", device(), device(), device(), device());
}

std::string Trailer(const grpc::ClientContext& context, const char* name) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find(name);
  if (found == trailers.end()) return "";
  return std::string(found->second.data(), found->second.size());
}

// The tries of one answer, and what has come of it.
class Answer {
 public:
  Answer(v1::Inference::Stub& stub, const AnswerOptions& options, const StartAnswer& start,
         const std::function<void(const v1::GenerateResponse&)>& on_response)
      : stub_(stub), options_(options), start_(start), on_response_(on_response) {
    if (!options.keyed) return;
    key_ = options.retry.idempotency_key;
    if (key_.empty() && options.retry.retry_s > 0) key_ = DrawKey();
  }

  AnswerOutcome Run() {
    const InterruptScope interrupt([this] { Interrupt(); });
    if (options_.timeout_s > 0) {
      deadline_ = std::chrono::system_clock::now() +
                  std::chrono::milliseconds(static_cast<int64_t>(options_.timeout_s * 1e3));
    }
    AnswerOutcome outcome;
    do {
      outcome = Try();
    } while (WaitToTryAgain(outcome));
    outcome.interrupted = interrupted_;
    if (outcome.interrupted && !outcome.status.ok()) {
      outcome.status = grpc::Status(grpc::StatusCode::CANCELLED, "interrupted");
      if (!key_.empty()) Forget();
    }
    return outcome;
  }

 private:
  AnswerOutcome Try() {
    grpc::ClientContext context;
    if (deadline_.has_value()) context.set_deadline(*deadline_);
    {
      const std::lock_guard lock(mutex_);
      context_ = &context;
      if (interrupted_) context.TryCancel();
    }
    const auto reader = start_(context, key_, received_);
    AnswerOutcome outcome;
    outcome.status = ReadResponses(
        *reader, [this](const v1::GenerateResponse& response) { OnResponse(response); });
    const std::lock_guard lock(mutex_);
    context_ = nullptr;
    outcome.retry_after = Trailer(context, "retry-after");
    int64_t pushback_ms = 0;
    asked_wait_.reset();
    if (absl::SimpleAtoi(Trailer(context, "grpc-retry-pushback-ms"), &pushback_ms)) {
      asked_wait_ = std::chrono::milliseconds(std::clamp<int64_t>(pushback_ms, 0, 600'000));
    }
    return outcome;
  }

  // The last message of a continuation comes with each try.
  void OnResponse(v1::GenerateResponse response) {
    last_progress_ = Clock::now();
    wait_ = kFirstWait;
    const size_t index = response.index();
    if (received_.size() <= index) {
      received_.resize(index + 1);
      ended_.resize(index + 1);
    }
    received_[index] += static_cast<uint32_t>(response.token_ids_size());
    const bool ends = response.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
    if (ends && ended_[index]) {
      response.clear_finish_reason();
      if (!response.has_usage()) return;
    }
    if (ends) ended_[index] = true;
    on_response_(response);
  }

  bool WaitToTryAgain(const AnswerOutcome& outcome) {
    ++tries_;
    if (outcome.status.error_code() != grpc::StatusCode::UNAVAILABLE || key_.empty()) return false;
    if (tries_ == 1 && received_.empty() && IsUnreachable(outcome.status)) return false;
    const auto wait = asked_wait_.value_or(wait_);
    wait_ = std::min(2 * wait_, kLongestWait);
    const auto left =
        last_progress_ +
        std::chrono::milliseconds(static_cast<int64_t>(options_.retry.retry_s * 1e3)) -
        Clock::now();
    if (wait > left) return false;
    if (!std::exchange(told_, true)) {
      std::cerr << "trireme: " << outcome.status.error_message() << "; trying again for "
                << std::chrono::duration_cast<std::chrono::seconds>(left).count() << " s"
                << std::endl;
    }
    std::unique_lock lock(mutex_);
    return !interrupt_.wait_for(lock, wait, [this] { return interrupted_; });
  }

  void Interrupt() {
    const std::lock_guard lock(mutex_);
    interrupted_ = true;
    if (context_ != nullptr) context_->TryCancel();
    interrupt_.notify_all();
  }

  void Forget() {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kForgetTimeout);
    v1::ForgetRequest request;
    request.set_tenant(options_.tenant);
    request.set_idempotency_key(key_);
    v1::ForgetResponse response;
    (void)stub_.Forget(&context, request, &response);  // else it ends by itself
  }

  v1::Inference::Stub& stub_;
  const AnswerOptions& options_;
  const StartAnswer& start_;
  const std::function<void(const v1::GenerateResponse&)>& on_response_;
  std::string key_;
  std::optional<std::chrono::system_clock::time_point> deadline_;
  std::vector<uint32_t> received_;  // tokens, by continuation
  std::vector<bool> ended_;
  Clock::time_point last_progress_ = Clock::now();
  std::optional<std::chrono::milliseconds> asked_wait_;
  std::chrono::milliseconds wait_ = kFirstWait;
  int tries_ = 0;
  bool told_ = false;

  std::mutex mutex_;
  std::condition_variable interrupt_;
  grpc::ClientContext* context_ = nullptr;  // guarded by mutex_
  bool interrupted_ = false;                // guarded by mutex_
};

}  // namespace

void RetryFlags::Define(CLI::App& command) {
  command
      .add_option("--idempotency-key", idempotency_key,
                  "name of this request: asked again with it, the server goes on with the answer "
                  "(default: drawn)")
      ->group("Retries");
  command
      .add_option("--retry-s", retry_s,
                  "how long to try again, without a new token, when the server goes away or is not "
                  "ready; 0: not at all")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str()
      ->group("Retries");
}

AnswerOutcome StreamAnswer(v1::Inference::Stub& stub, const AnswerOptions& options,
                           const StartAnswer& start,
                           const std::function<void(const v1::GenerateResponse&)>& on_response) {
  return Answer(stub, options, start, on_response).Run();
}

}  // namespace trireme
