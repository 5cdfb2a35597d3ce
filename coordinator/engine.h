#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/gangs.h"
#include "coordinator/replica.h"

namespace trireme {

// What an earlier run of a request has come to.
struct BegunAnswer {
  std::string version;                       // of what computed it (GangIsReady)
  std::vector<std::vector<int32_t>> tokens;  // of each continuation
  std::vector<bool> over;                    // continuations; not all
};

// A client's request, tokenised, with every default resolved.
struct GenerationRequest {
  std::vector<int32_t> prompt;  // not empty
  v1::StepSampling sampling;    // continuation i is sampled with seed + i
  uint32_t max_tokens = 0;      // at least 1
  std::vector<int32_t> stop_token_ids;
  uint32_t n = 1;  // continuations
  v1::Priority priority = v1::PRIORITY_NORMAL;
  std::string tenant;
  std::string cache_salt;
  // Refused if it is not likely to be answered by then.
  std::optional<std::chrono::steady_clock::time_point> deadline;
  std::optional<BegunAnswer> begun;  // the sink hears what comes after it
};

// Receives what becomes of a request. The engine's thread calls it, so it must not block; it may
// call the engine. What it hears it may keep back until Flush, which comes soon after: at once
// where steps are slow, every few milliseconds where many are fast and messages of one token each
// would cost more than the tokens.
class TokenSink {
 public:
  enum class Verdict { kContinue, kStopSequence, kStopRequest };

  virtual ~TokenSink() = default;
  // What computes the answer (GangIsReady), before anything of it comes; not again for an answer
  // that had begun.
  virtual void OnVersion(const std::string& /*version*/) {}
  // How probable the prompt's next token was, from the second on; before the first OnToken.
  virtual Verdict OnPromptLogprob(const v1::PromptLogprob& logprob) = 0;
  // The next token of continuation `index`, each exactly once and in order. After a finish reason
  // or a stop nothing more comes for this continuation.
  virtual Verdict OnToken(uint32_t index, const SequenceOutput& output) = 0;
  // The request has failed; nothing more comes, not even Flush.
  virtual void OnError(const absl::Status& status) = 0;
  virtual void Flush() = 0;
};

struct EngineOptions {
  GangRequirements gang;
  ReplicaOptions replica;
  std::string model_name;       // part of the prefix cache's namespace
  uint32_t max_waiting = 4096;  // sequences that may wait for a place, at all gangs together
  uint32_t max_waiting_per_tenant = 4096;
  std::chrono::milliseconds client_timeout{30'000};  // a paused request is given up after it
  std::chrono::milliseconds gang_timeout{60'000};
  std::string worker_hint;  // how to start workers, for the error when there are none
  std::function<void(bool ready)> on_ready_change = [](bool) {};  // on the engine's thread
};

// The event loop around the replicas with their pure schedulers and the gang supervisor: one thread
// that takes events (requests, cancellations, worker messages, deadlines) and sends out plans and
// tokens. It is the only place where time and threads meet the scheduler. It routes requests to
// gangs, and on to others when a gang ends (docs/replicas.md). All public methods are thread safe
// and return at once, except Stop.
class Engine {
 public:
  explicit Engine(EngineOptions options);
  ~Engine();  // stops

  void Start();

  // Fails every request with UNAVAILABLE, tells the workers to shut down, and ends the thread.
  void Stop(const std::string& reason);

  uint64_t NewRequestId() { return next_request_id_++; }

  // The sink hears all about the request, also that it is refused: UNAVAILABLE (no gang, and none
  // that was lost less than gang_timeout ago or loads, for which it would wait), RESOURCE_EXHAUSTED
  // (queue full, or not before the deadline), INVALID_ARGUMENT (exceeds every gang's context),
  // FAILED_PRECONDITION (has begun with a version that no gang has; until gang_timeout after the
  // start UNAVAILABLE).
  void Submit(uint64_t request_id, GenerationRequest request, std::shared_ptr<TokenSink> sink);

  // Frees the request's sequences; the sink hears nothing more. No effect if it is over.
  void Cancel(uint64_t request_id);

  // Its client does not read: nothing more is computed for it until Resume, and if that takes
  // longer than client_timeout, it fails with RESOURCE_EXHAUSTED.
  void Pause(uint64_t request_id);
  void Resume(uint64_t request_id);

  // The events of one worker's control stream, in order.
  uint64_t OnWorkerConnect(std::shared_ptr<WorkerStream> stream, std::string peer);
  void OnWorkerMessage(uint64_t stream_id, v1::WorkerMessage message);
  void OnWorkerDisconnect(uint64_t stream_id, std::string why);

  // Weights are being loaded: who waits for a lost gang waits gang_timeout from now, but no longer
  // than ten times that since the loss, as a gang may be lost again and again before it serves.
  void OnWorkerLoads();

  // For an operator: ends gangs as SIGTERM to a rank does. `done` hears the epochs of those that
  // drain, on the engine's thread; none if it has stopped.
  using Drained = std::function<void(std::vector<uint64_t> epochs)>;
  void DrainGang(uint64_t epoch, const Drained& done);
  void DrainHost(const std::string& host, const Drained& done);

  bool ready() const { return ready_; }
  // The longest of the gangs that serve or may come back, or else what the coordinator wants to
  // serve.
  uint32_t max_model_len() const { return max_model_len_; }
  // The longest of the gangs' that take new work now; that, if there is none.
  uint32_t default_model_len() const { return default_model_len_; }
  v1::ListRanksResponse Describe() const;
  v1::GetStatsResponse Stats() const;

 private:
  using Clock = std::chrono::steady_clock;
  using Event = std::function<void()>;
  struct Request {
    std::shared_ptr<TokenSink> sink;
    Replica* replica = nullptr;                // has all its open sequences
    std::optional<std::string> version;        // of the model that its first tokens are of
    std::vector<uint64_t> open_sequences;      // by age
    std::optional<Clock::time_point> give_up;  // while paused
    bool unflushed = false;                    // in unflushed_
    uint64_t prompt_tokens = 0;                // of all continuations
  };
  // A gang that a request may go to.
  struct Candidate {
    Replica* replica = nullptr;
    uint64_t tokens_outstanding = 0;
  };
  struct SequenceOwner {
    uint64_t request_id = 0;
    uint32_t index = 0;
  };

  // False if the engine has stopped.
  bool Post(Event event);
  void Loop();
  std::vector<Event> NextEvents();
  std::optional<Clock::time_point> NextDeadline() const;
  void CheckDeadlines();
  void CheckGangs(Clock::time_point now);
  void SendPlans(Replica& replica);
  void EndDrained();
  // Forgets replicas that nobody needs; one stays.
  void DropIdleReplicas();
  void ShutDown();

  void HandleSubmit(uint64_t request_id, const GenerationRequest& request,
                    const std::shared_ptr<TokenSink>& sink);
  // Its continuation `index`, without a place in the prefix cache.
  Sequence NewSequence(const GenerationRequest& request, uint32_t index);
  // Where the request goes, or why it is refused.
  absl::StatusOr<Replica*> Admit(const GenerationRequest& request, const BlockHash& root) const;
  absl::Status CheckQueue(const GenerationRequest& request, const Replica& replica) const;
  absl::Status CheckDeadline(const GenerationRequest& request, const Replica& replica) const;
  // Why a request that no gang can take, nor one that may come back, is refused.
  absl::Status NoGangFor(const std::optional<std::string>& version, uint64_t tokens_max) const;
  // Of those whose gang may come back, one whose last gang could take the request; null if none.
  Replica* AwaitedReplica(const std::optional<std::string>& version, uint64_t tokens_max) const;
  // The gangs that serve and drain, or do not.
  std::vector<Candidate> Candidates(bool drain) const;
  // The candidate for a request with these tokens; null if none holds it.
  static Candidate* Choose(std::vector<Candidate>& candidates,
                           const std::optional<std::string>& version, const BlockHash& root,
                           std::span<const int32_t> tokens, uint64_t tokens_max);
  // Requests of which the gang has computed nothing go where they would if they came now. Those
  // that no gang holds stay.
  void RouteAgain(const std::vector<uint64_t>& request_ids);
  std::vector<uint64_t> RequestsOf(const Replica& replica) const;
  std::vector<uint64_t> UnbegunRequests() const;
  // Whose place a gang takes: of the lost ones that it could go on for, the one most like it; null
  // if there is none.
  Replica* VacantReplica(const GangIsReady& ready) const;
  // Whether a gang could go on with all that waits for the replica's next one.
  bool CanTakeOver(const Replica& replica, const GangIsReady& ready) const;
  // Whether a gang that drains has requests that none of those that stay could take: they are of
  // another version, or too small. Where none stays, another is to come in its place.
  bool MustFinish(const Replica& replica) const;
  BlockHash CacheRoot(const GenerationRequest& request) const;
  void HandlePause(uint64_t request_id);
  void HandleResume(uint64_t request_id);
  void Drain(std::function<std::vector<GangEvent>()> find, const Drained& done);
  void HandleGangEvent(GangEvent event);
  void HandleGangReady(const GangIsReady& ready);
  void HandleGangLost(const GangIsLost& lost);
  Replica& ReplicaOf(uint64_t epoch) const;
  void HandleResult(v1::StepResult result);
  void Deliver(const SequenceOutput& output);
  void DeliverPromptLogprob(const v1::PromptLogprob& logprob);
  void FlushSinks();
  TokenSink& Touch(uint64_t request_id);
  void CloseSequence(uint64_t sequence_id);
  void CloseRequest(uint64_t request_id);
  void FailRequest(uint64_t request_id, const absl::Status& status);
  void FailRequestsOf(const std::vector<uint64_t>& sequence_ids, const absl::Status& status);
  void FailAll(const absl::Status& status);
  void PublishGangs();
  void PublishStats();

  const EngineOptions options_;
  std::thread thread_;
  std::atomic<uint64_t> next_request_id_{1};
  std::atomic<uint64_t> next_stream_id_{1};
  std::atomic<bool> ready_{false};
  std::atomic<uint32_t> max_model_len_;
  std::atomic<uint32_t> default_model_len_;

  std::mutex events_mutex_;
  std::condition_variable events_ready_;
  std::vector<Event> events_;  // guarded by events_mutex_
  bool closed_ = false;        // guarded by events_mutex_: takes no more events

  mutable std::mutex description_mutex_;
  v1::ListRanksResponse description_;  // guarded by description_mutex_
  v1::GetStatsResponse stats_;         // guarded by description_mutex_

  // The rest belongs to the engine's thread.
  GangSupervisor supervisor_;
  Clock::time_point gangs_return_until_;            // those of the coordinator before
  std::vector<std::unique_ptr<Replica>> replicas_;  // one at least; requests name them
  std::map<uint64_t, Request> requests_;
  absl::flat_hash_map<uint64_t, SequenceOwner> owners_;                     // by sequence id
  std::vector<std::pair<uint64_t, std::shared_ptr<TokenSink>>> unflushed_;  // by request id
  Clock::time_point next_flush_;
  size_t num_stalled_ = 0;       // requests with give_up
  v1::GetStatsResponse counts_;  // of requests, and what replicas computed that are gone
  uint64_t prompt_tokens_ = 0;   // of all requests
  uint64_t next_sequence_id_ = 1;
  bool stopped_ = false;
  std::string stop_reason_;
};

}  // namespace trireme
