#include "cluster/planner/simulation.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "cluster/bench_serve_random.h"

namespace trireme {
namespace {

// The coordinator's most, for a request that is not to blame. It also ends a simulation of copies
// that fail sooner than they compute a token.
constexpr int kGangsLostMax = 16;
constexpr double kArrivalMax = 1e8;
constexpr uint64_t kFailureStream = uint64_t{1} << 60;  // requests use the low numbers

absl::Status Check(const std::vector<TraceRequest>& trace, const SimulationOptions& options) {
  const ReplicaSpec& replica = options.replica;
  if (trace.size() > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError("the trace has more than 4294967295 requests");
  }
  if (options.replicas < 1 || replica.stages < 1 || replica.block_size < 1 ||
      replica.max_num_seqs < 1 || replica.max_num_batched_tokens < 1) {
    return absl::InvalidArgumentError(
        "replicas, stages, block size, sequences and tokens of a step must be at least 1");
  }
  if (!(options.replica_mtbf_s >= 0) || !(options.recovery_s >= 0) || !(options.duration_s >= 0)) {
    return absl::InvalidArgumentError("times of failures and the duration must not be negative");
  }
  double before_s = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    const TraceRequest& request = trace[i];
    if (!(request.arrival_s >= before_s && request.arrival_s <= kArrivalMax)) {
      return absl::InvalidArgumentError(
          absl::StrCat("request ", i + 1, " arrives before the one ahead of it, before 0 or after ",
                       kArrivalMax, " s"));
    }
    before_s = request.arrival_s;
    if (request.prompt_tokens < 1 || request.output_tokens < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("request ", i + 1, " has no tokens in its prompt or its answer"));
    }
    // The last token is never computed.
    const int64_t tokens = request.prompt_tokens + request.output_tokens - 1;
    const int64_t blocks = (tokens + replica.block_size - 1) / replica.block_size;
    if (blocks > replica.kv_blocks) {
      return absl::InvalidArgumentError(absl::StrCat(
          "request ", i + 1, " of ", request.prompt_tokens, " + ", request.output_tokens,
          " tokens can never fit: a replica's KV cache holds ",
          replica.kv_blocks * replica.block_size, " tokens; use a layout with more memory"));
    }
  }
  return absl::OkStatus();
}

// Ordered by time, then by the order in which they were made.
struct Event {
  enum class Kind { kStepDone, kFailure, kRecovery };
  double at_s = 0;
  uint64_t number = 0;
  Kind kind = Kind::kStepDone;
  size_t replica = 0;
  uint64_t epoch = 0;  // a step of a gang that has failed since is void

  bool operator>(const Event& other) const {
    return std::pair(at_s, number) > std::pair(other.at_s, other.number);
  }
};

class Simulator {
 public:
  Simulator(const std::vector<TraceRequest>& trace, const SimulationOptions& options)
      : options_(options), trace_(trace) {
    result_.requests.reserve(trace.size());
    for (const TraceRequest& request : trace) {
      result_.requests.push_back({.prompt_tokens = request.prompt_tokens,
                                  .output_tokens = request.output_tokens,
                                  .arrival_s = request.arrival_s});
    }
    gangs_.reserve(static_cast<size_t>(options.replicas));
    for (size_t i = 0; i < static_cast<size_t>(options.replicas); ++i) {
      gangs_.emplace_back(SimulatedReplica(options.replica, result_.requests),
                          Random(options.seed, kFailureStream + i));
      ScheduleFailure(i);
    }
  }

  SimulationResult Run() {
    while (ended_ < trace_.size() || !Over()) {
      const bool arrival =
          next_arrival_ < trace_.size() &&
          (events_.empty() || trace_[next_arrival_].arrival_s <= events_.top().at_s);
      if (arrival) {
        Advance(trace_[next_arrival_].arrival_s);
        ++inside_;
        Route(next_arrival_++);
        continue;
      }
      CHECK(!events_.empty());
      const Event event = events_.top();
      events_.pop();
      Advance(event.at_s);
      Handle(event);
    }
    Finish();
    return std::move(result_);
  }

 private:
  struct Gang {
    Gang(SimulatedReplica replica, Random random)
        : replica(std::move(replica)), random(std::move(random)) {}

    SimulatedReplica replica;
    Random random;
    uint64_t epoch = 0;
    bool up = true;
    double changed_s = 0;  // when it went up or down
    double back_s = 0;     // while down
    double event_s = -1;   // of the step that is awaited
  };

  // Whether only what is beyond the duration remains.
  bool Over() const { return events_.empty() || events_.top().at_s > options_.duration_s; }

  void Advance(double now_s) {
    result_.request_seconds += static_cast<double>(inside_) * (now_s - now_s_);
    now_s_ = now_s;
  }

  void Push(double at_s, Event::Kind kind, size_t gang) {
    events_.push({.at_s = at_s,
                  .number = ++last_event_,
                  .kind = kind,
                  .replica = gang,
                  .epoch = gangs_[gang].epoch});
  }

  void ScheduleFailure(size_t index) {
    if (options_.replica_mtbf_s <= 0) return;
    const double wait_s = gangs_[index].random.Exponential() * options_.replica_mtbf_s;
    Push(now_s_ + wait_s, Event::Kind::kFailure, index);
  }

  // The replica with the fewest requests; if all are down, the first to return.
  size_t Choose() const {
    size_t best = 0;
    for (size_t i = 1; i < gangs_.size(); ++i) {
      const Gang& a = gangs_[i];
      const Gang& b = gangs_[best];
      if (a.up != b.up ? a.up
                       : (a.up ? a.replica.load() < b.replica.load() : a.back_s < b.back_s)) {
        best = i;
      }
    }
    return best;
  }

  void Route(size_t request) {
    const size_t index = Choose();
    gangs_[index].replica.Add(static_cast<uint32_t>(request));
    Work(index);
  }

  // Keeps the gang busy, and its next result awaited.
  void Work(size_t index) {
    Gang& gang = gangs_[index];
    if (!gang.up) return;
    gang.replica.Issue(now_s_);
    const std::optional<double> done_s = gang.replica.NextDone();
    if (!done_s || gang.event_s >= 0) return;
    gang.event_s = *done_s;
    Push(*done_s, Event::Kind::kStepDone, index);
  }

  void Handle(const Event& event) {
    Gang& gang = gangs_[event.replica];
    switch (event.kind) {
      case Event::Kind::kStepDone: {
        if (event.epoch != gang.epoch) return;
        gang.event_s = -1;
        const size_t ended = gang.replica.Complete().size();
        ended_ += ended;
        inside_ -= ended;
        Work(event.replica);
        return;
      }
      case Event::Kind::kFailure:
        Fail(event.replica);
        return;
      case Event::Kind::kRecovery:
        gang.up = true;
        gang.changed_s = now_s_;
        ScheduleFailure(event.replica);
        Work(event.replica);
        return;
    }
  }

  void Fail(size_t index) {
    Gang& gang = gangs_[index];
    ++result_.failures;
    result_.up_s += now_s_ - gang.changed_s;
    gang.up = false;
    gang.changed_s = now_s_;
    gang.back_s = now_s_ + options_.recovery_s;
    gang.event_s = -1;
    ++gang.epoch;
    Push(gang.back_s, Event::Kind::kRecovery, index);
    const SimulatedReplica::Lost lost = gang.replica.Lose(now_s_);
    std::vector<uint32_t> again = lost.waiting;
    for (const uint32_t id : lost.running) {
      SimulatedSequence& sequence = result_.requests[id];
      if (sequence.generated > std::exchange(sequence.generated_lost, sequence.generated)) {
        sequence.gangs_lost = 0;
      }
      if (++sequence.gangs_lost < kGangsLostMax) {
        again.push_back(id);
        continue;
      }
      sequence.failed = true;
      sequence.end_s = now_s_;
      ++ended_;
      --inside_;
    }
    std::sort(again.begin(), again.end());
    for (const uint32_t id : again) Route(id);
  }

  void Finish() {
    result_.duration_s = std::max(now_s_, options_.duration_s);
    int64_t blocks_max = 0;
    for (const Gang& gang : gangs_) {
      if (gang.up) result_.up_s += result_.duration_s - gang.changed_s;
      const ReplicaCounts& counts = gang.replica.counts();
      result_.counts.steps += counts.steps;
      result_.counts.preemptions += counts.preemptions;
      result_.counts.tokens_prefilled += counts.tokens_prefilled;
      result_.counts.tokens_recomputed += counts.tokens_recomputed;
      result_.counts.tokens_generated += counts.tokens_generated;
      result_.counts.kv_block_seconds += counts.kv_block_seconds;
      blocks_max = std::max(blocks_max, counts.kv_blocks_max);
    }
    result_.counts.kv_blocks_max = blocks_max;
    const double blocks = static_cast<double>(options_.replica.kv_blocks);
    const double replica_seconds = result_.duration_s * static_cast<double>(gangs_.size());
    if (replica_seconds > 0) result_.availability = result_.up_s / replica_seconds;
    if (replica_seconds > 0 && blocks > 0) {
      result_.kv_use = result_.counts.kv_block_seconds / (replica_seconds * blocks);
    }
    if (blocks > 0) result_.kv_use_max = static_cast<double>(blocks_max) / blocks;
  }

  const SimulationOptions& options_;
  const std::vector<TraceRequest>& trace_;
  SimulationResult result_;
  std::vector<Gang> gangs_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  uint64_t last_event_ = 0;
  size_t next_arrival_ = 0;
  size_t ended_ = 0;
  size_t inside_ = 0;
  double now_s_ = 0;
};

}  // namespace

absl::StatusOr<SimulationResult> Simulate(const std::vector<TraceRequest>& trace,
                                          const SimulationOptions& options) {
  RETURN_IF_ERROR(Check(trace, options));
  return Simulator(trace, options).Run();
}

}  // namespace trireme
