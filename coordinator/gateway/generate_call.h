#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/engine.h"
#include "coordinator/gateway/output_text.h"
#include "coordinator/gateway/sampling.h"
#include "coordinator/served_model.h"
#include "trireme/v1/inference.pb.h"

namespace trireme {

using ResponseWriter = grpc::ServerWriteReactor<grpc::ByteBuffer>;

// A prompt that is ready to be continued.
struct PreparedRequest {
  std::string request_id;  // for logs
  std::vector<int32_t> prompt;
  ResolvedSampling sampling;
  v1::Scheduling scheduling;
  std::string idempotency_key;            // empty: none
  std::string fingerprint;                // of the client's message, if there is a key
  std::vector<uint32_t> tokens_received;  // by continuation; the client has them
};

// What the engine needs to know of it.
GenerationRequest ToGenerationRequest(const PreparedRequest& prepared);

// The request behind a call. Thread safe; all return at once.
class AnswerSource {
 public:
  virtual ~AnswerSource() = default;
  // The client does not read, or reads again.
  virtual void Pause() = 0;
  virtual void Resume() = 0;
  // The client has gone.
  virtual void Leave() = 0;
  // Whether tokens come also after that: their verdicts still count.
  virtual bool outlives_client() const = 0;
};

// One Generate or Chat call: takes tokens from the engine, gives a stream of text to the client.
// The engine never waits for the client: what the client has not read is kept here, merged into few
// messages, up to a bound, from where on the engine computes nothing for this call until the client
// has read. The call owns itself and goes when gRPC and the source of its tokens are done with it.
// It is there before its request is: what that takes is not for gRPC's threads (InferenceService).
class GenerateCall : public ResponseWriter,
                     public TokenSink,
                     public std::enable_shared_from_this<GenerateCall> {
 public:
  // A call that waits for Submit, Begin or OnError.
  static std::shared_ptr<GenerateCall> Create(grpc::CallbackServerContext* context,
                                              const ServedModel& model);
  // Computes a request that ends with the call.
  void Submit(Engine& engine, PreparedRequest prepared);
  // Waits for the tokens of this source, from the first on; once. If that fails, also because the
  // client has gone, the call has ended and takes none.
  absl::Status Begin(PreparedRequest prepared, std::unique_ptr<AnswerSource> source);

  // The client has gone, or the call has failed.
  bool over();

  // Tells the source once more if the client does not read: it may not have listened before.
  void RepeatPause();

  // TokenSink, on the engine's thread or another, one at a time; OnError at any time.
  Verdict OnPromptLogprob(const v1::PromptLogprob& logprob) override;
  Verdict OnToken(uint32_t index, const SequenceOutput& output) override;
  void OnError(const absl::Status& status) override;
  void Flush() override;

  // grpc::ServerWriteReactor, on gRPC's threads.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  using Clock = std::chrono::steady_clock;

  GenerateCall(grpc::CallbackServerContext* context, const ServedModel& model);
  absl::Status MakeTexts();
  v1::GenerateResponse MakeResponse(uint32_t index, const SequenceOutput& output);
  // A token of a call that sends the best of more continuations than asked for, when all are done.
  Verdict Collect(v1::GenerateResponse response, float logprob);
  void SendBest();
  Verdict Enqueue(v1::GenerateResponse response);
  // What the client has not received of a message with the next token; all but the last messages of
  // continuations may be nothing.
  std::optional<v1::GenerateResponse> Unseen(v1::GenerateResponse response);
  bool HasReceived(uint32_t index, uint32_t tokens) const;
  // The rest needs mutex_ to be held.
  void Append(v1::GenerateResponse response);
  void Leave(const absl::Status& status);
  void Pump();
  void End(const absl::Status& status);
  v1::Usage MakeUsage() const;

  grpc::CallbackServerContext* const context_;
  const ServedModel& model_;
  const Clock::time_point start_;
  // From Begin on, which comes before any token.
  PreparedRequest prepared_;
  std::unique_ptr<AnswerSource> source_;
  // By index; these belong to whoever calls OnToken.
  std::vector<OutputText> texts_;
  std::vector<v1::GenerateResponse> candidates_;
  std::vector<double> logprobs_;  // sums
  std::vector<uint32_t> num_tokens_;

  std::mutex mutex_;
  std::shared_ptr<GenerateCall> self_;  // until OnDone
  std::deque<v1::GenerateResponse> pending_;
  size_t pending_bytes_ = 0;
  grpc::ByteBuffer writing_bytes_;
  bool writing_ = false;
  bool finished_ = false;            // Finish has been called
  std::optional<absl::Status> end_;  // how the call ends, once pending_ is written
  bool paused_ = false;
  uint32_t open_continuations_ = 0;
  uint32_t completion_tokens_ = 0;
  uint32_t cached_tokens_ = 0;
  std::optional<Clock::time_point> first_token_;
};

}  // namespace trireme
