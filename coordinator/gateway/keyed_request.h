#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/engine.h"
#include "coordinator/gateway/generate_call.h"
#include "coordinator/journal.h"
#include "coordinator/served_model.h"

namespace trireme {

// A request with an idempotency key: it keeps the tokens of its answer, and outlives the calls that
// show it. Each call is given all tokens from the first on, so that the text it makes of them, and
// where that ends, is the same in each; it sends what its client has not received. The engine
// computes the request in runs: a run that was cut off is followed by one that goes on after its
// tokens. Thread safe.
class KeyedRequest : public std::enable_shared_from_this<KeyedRequest> {
 public:
  using Clock = std::chrono::steady_clock;

  KeyedRequest(const ServedModel& model, Engine& engine, PreparedRequest prepared);

  // As another coordinator left it. FailedPrecondition: it was begun with another model, or what
  // is there cannot be of this one.
  static absl::StatusOr<std::shared_ptr<KeyedRequest>> Restore(const ServedModel& model,
                                                               Engine& engine,
                                                               const JournalEntry& entry);
  v1::JournaledRequest ToJournal() const;

  const std::string& fingerprint() const { return prepared_.fingerprint; }

  // The call shows the answer from now on, instead of the one before it, and what is left of it is
  // computed. The call's own are its request id and what its client has received.
  void Attach(const std::shared_ptr<GenerateCall>& call, const PreparedRequest& asked);

  // While it is held it is not idle: a call has found it, and has not attached yet.
  void Hold();
  void Release();

  // Ends the run, if there is one, and all calls, also later ones, with this status.
  void Abandon(const absl::Status& status);

  // Ends a run whose client has gone for so long.
  void CheckClient(Clock::time_point now, Clock::duration grace);

  // What has happened since it was last asked, if anything, and it has a journal id.
  std::optional<JournalBatch> TakeNews();
  // 0: it is not in the journal, or its entry is complete as it is.
  void SetJournalId(int64_t id) { journal_id_ = id; }

  // Nothing is computed or about to be.
  bool idle() const;
  // Idle, and it never came to a token or an error to be kept.
  bool empty() const;
  Clock::time_point last_used() const { return last_used_.load(); }
  size_t bytes() const { return bytes_; }

 private:
  class Run;
  class Source;

  TokenSink::Verdict OnToken(uint64_t run, uint32_t index, const SequenceOutput& output);
  void OnVersion(uint64_t run, const std::string& version);
  void OnError(uint64_t run, const absl::Status& status);
  void Flush();
  // Gives the call all tokens and, with none missing, makes it the one that is shown.
  void CatchUp(const std::shared_ptr<GenerateCall>& call);
  // Starts a run if something is left to be computed.
  void Go(GenerateCall& call);
  // The rest needs mutex_ to be held.
  void Show(const std::shared_ptr<GenerateCall>& call);
  GenerationRequest NextRun();
  bool finished() const;
  bool at_rest() const { return !running_ && holds_ == 0; }

  const ServedModel& model_;
  Engine& engine_;
  const PreparedRequest prepared_;
  std::atomic<int64_t> journal_id_{0};
  std::atomic<size_t> bytes_{0};
  std::atomic<Clock::time_point> last_used_;

  std::mutex attach_mutex_;             // held by one Attach at a time; taken before mutex_
  std::atomic<uint64_t> attached_{0};   // calls so far; the last is the one that counts
  std::atomic<uint64_t> left_{0};       // the last call whose client has gone
  std::atomic<uint64_t> engine_id_{0};  // of the run

  mutable std::mutex mutex_;  // taken before that of the call
  std::shared_ptr<GenerateCall> call_;
  std::vector<v1::JournaledToken> tokens_;  // of all continuations, as they came
  std::vector<bool> over_;                  // by continuation, as the calls found
  std::string version_;
  uint64_t run_ = 0;  // the number of the run; what comes from others is late
  bool running_ = false;
  int holds_ = 0;
  std::optional<absl::Status> failure_;  // that would be the same the next time
  std::optional<Clock::time_point> give_up_;
  size_t journaled_ = 0;  // tokens
  bool failure_journaled_ = false;
};

}  // namespace trireme
