#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/cordoned_hosts.h"
#include "coordinator/scheduler.h"
#include "coordinator/whereabouts.h"
#include "parallel/model_config.h"
#include "trireme/v1/cluster.pb.h"
#include "trireme/v1/worker.pb.h"

namespace trireme {

// The coordinator's end of one rank's control stream. Both calls return at once and may be made
// from any thread; after Close nothing more is sent.
class WorkerStream {
 public:
  virtual ~WorkerStream() = default;
  virtual void Send(const v1::CoordinatorMessage& message) = 0;
  // Ends the call with this status, after what was sent before. Only the first Close counts.
  virtual void Close(const absl::Status& status) = 0;
};

// What the coordinator demands of a gang.
struct GangRequirements {
  ModelConfig config;
  uint32_t max_model_len = 0;           // the context to serve
  bool max_model_len_required = false;  // refuse a gang with less, instead of serving less
  std::chrono::milliseconds worker_timeout{4'000};  // a rank that is silent so long is given up
  std::chrono::milliseconds self_test_timeout{120'000};
  const CordonedHosts* cordoned = nullptr;  // not owned; null: none is
  bool keep_workers = false;  // ShutdownAll leaves them waiting for the next coordinator
};

// What a message or the end of a stream means to the engine. A gang is named by its epoch.
struct GangIsReady {
  GangCapacity capacity;
  std::string version;  // of the model and its arithmetic: equal ones answer alike
};
struct GangIsLost {
  uint64_t epoch = 0;
  std::string reason;
  bool silent = false;  // a rank was not heard: stopped, starved, or its host or network is gone
};
// Send it no more plans and, when those under way are answered, LoseGang.
struct GangDrains {
  uint64_t epoch = 0;
  std::string reason;
};
// A result is of the epoch of the gang that sent it.
using GangEvent = std::variant<std::monostate, GangIsReady, GangIsLost, GangDrains, v1::StepResult>;

// Forms gangs of ranks and watches those that serve. Streams register with a gang id; when all
// ranks of that id are there and agree, the gang gets an epoch, as no other has had, and serves
// until any of its streams ends, misbehaves or falls silent, or its ranks all wait for each other
// (CheckDeadlock). Then the rest of it is told to shut
// down: a gang lives and dies as one, and other gangs do not notice. Any number may serve, of any
// size; what they compute must be the same to the bit, as requests go on from one to another. A
// stream that breaks the protocol is closed.
// No threads, no clock: it is told the time. Not thread safe.
class GangSupervisor {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit GangSupervisor(GangRequirements requirements) : requirements_(std::move(requirements)) {}

  // `peer` names the other end in messages.
  void OnConnect(uint64_t stream_id, std::shared_ptr<WorkerStream> stream, std::string peer,
                 Time now);
  GangEvent OnMessage(uint64_t stream_id, const v1::WorkerMessage& message, Time now);
  // The stream is over, whoever ended it. No effect if it is not known (any more).
  GangEvent OnDisconnect(uint64_t stream_id, const std::string& why, Time now);

  // Ends the gangs of which a rank has been silent for the worker timeout, those that do not come
  // together, and streams that have not registered within the worker timeout.
  std::vector<GangEvent> CheckSilence(Time now);
  // When CheckSilence can next find one; nothing without a stream.
  std::optional<Time> NextSilence() const;

  // Who keeps a serving gang from finishing a step: the ranks that have not begun it or, if all
  // have, those that have not done it, with where they are.
  std::string Laggards(uint64_t epoch, uint64_t step) const;

  // To every rank of the gang of the plan's epoch, which must serve.
  void SendPlan(v1::StepPlan plan);

  // Ends a gang for a reason found outside of its streams. No effect if it does not serve. A lost
  // one's ranks may be in the middle of a step, and end at once; one that is released has none
  // under way, and ends in an orderly way.
  GangEvent LoseGang(uint64_t epoch, const std::string& reason);
  GangEvent ReleaseGang(uint64_t epoch, const std::string& reason);

  // What an operator wants to end: gangs that serve drain, one that still forms ends.
  std::vector<GangEvent> DrainGang(uint64_t epoch) const;
  std::vector<GangEvent> DrainHost(const std::string& host);

  // Tells every rank of every gang to shut down, unless workers are kept, and closes all streams.
  void ShutdownAll(const std::string& reason);

  bool has_gang() const { return !serving_.empty(); }
  // Layout and ranks of the gangs that serve; what they compute is not set.
  v1::ListRanksResponse Describe() const;
  // Those of which ranks have registered, but not all.
  std::vector<v1::WaitingGang> WaitingGangs() const;

 private:
  struct Stream {
    std::shared_ptr<WorkerStream> stream;
    std::string peer;
    v1::Register registration;  // gang_id is empty until the rank registers
    v1::Progress progress;
    Time heard{};   // when it connected or last gave a sign of life
    Time moved{};   // when a step was last known to have begun or ended, or a self-test was sent
    Time told{};    // when its last Progress came
    Time got_on{};  // when it last told that it computes, or has exchanged something
    uint64_t self_tests_sent = 0;
  };

  // A gang of which a rank has registered, but not all.
  struct Forming {
    Time since{};
    std::string refused;  // why a rank was: those that come after it are, too
  };

  GangEvent OnRegister(uint64_t stream_id, const v1::Register& registration, Time now);
  GangEvent OnProgress(Stream& stream, const v1::Progress& progress, Time now);
  GangEvent CheckDeadlock(const Stream& waiting);
  GangEvent TestIdleGang(const std::string& gang_id, Time now);
  GangEvent OnDrain(uint64_t stream_id, Time now);
  GangEvent OnResult(uint64_t stream_id, const v1::StepResult& result, Time now);
  absl::Status CheckAlone(const v1::Register& registration) const;
  absl::Status CheckForming(const v1::Register& registration) const;
  absl::Status CheckModel(const v1::Register& registration) const;
  absl::Status CheckAgainstPeers(const v1::Register& registration) const;
  // By rank, the streams of a gang.
  std::map<uint32_t, uint64_t> RanksOf(const std::string& gang_id) const;
  std::optional<uint64_t> EpochOf(const std::string& gang_id) const;
  GangEvent StartServing(const std::string& gang_id);
  // Closes a stream that broke the rules, and what that means for its gang.
  GangEvent Reject(uint64_t stream_id, const absl::Status& status, Time now);
  GangEvent RejectGang(uint64_t stream_id, const std::string& gang_id, const absl::Status& status,
                       Time now);
  // None joined: it is not known.
  v1::WaitingGang DescribeForming(const std::string& gang_id) const;
  // How long after its first rank a gang's last one may register.
  std::chrono::milliseconds FormingTimeout() const;
  void EndIncomplete(Time now);
  // Ends every rank of a gang.
  enum class End { kLost, kSilent, kReleased };
  GangEvent EndGang(const std::string& gang_id, const std::string& reason, End end = End::kLost);

  const GangRequirements requirements_;
  std::map<uint64_t, Stream> streams_;
  std::map<uint64_t, std::string> serving_;  // gang ids by epoch
  std::map<std::string, Forming> forming_;   // by gang id
  uint64_t last_epoch_ = 0;
  std::vector<v1::Register> first_;  // ranks of the first gang that served; empty before
};

}  // namespace trireme
