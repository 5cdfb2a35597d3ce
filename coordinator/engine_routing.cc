// Where the engine's requests go: which are admitted, and to which gang.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/engine.h"
#include "coordinator/retry_hint.h"
#include "coordinator/router.h"

namespace trireme {
namespace {

// Under a steady overload every request that is admitted is a close call, and what misses its
// deadline in the end has cost the others their time.
constexpr double kDeadlineMargin = 1.25;
// Of all requests, 4 bytes each: the memory of the coordinator, which all gangs depend on.
constexpr uint64_t kPromptTokensMax = uint64_t{128} << 20;

absl::Status TryAgain(const std::string& why, double after_ms) {
  return WithRetry(absl::ResourceExhaustedError(why), after_ms);
}

double Milliseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

}  // namespace

// Prefixes are shared within one model, adapter (none yet) and tenant with the same salt only: the
// time of a first token would tell one tenant what another has asked.
BlockHash Engine::CacheRoot(const GenerationRequest& request) const {
  std::string name;
  for (const std::string& part :
       {options_.model_name, std::string(), request.tenant, request.cache_salt}) {
    absl::StrAppend(&name, part.size(), ":", part, ";");
  }
  return HashNamespace(options_.replica.scheduler.hash_key, name);
}

absl::StatusOr<Replica*> Engine::Admit(const GenerationRequest& request,
                                       const BlockHash& root) const {
  const uint64_t tokens_max = uint64_t{request.max_tokens} + request.prompt.size();
  std::optional<std::string> version;
  if (request.begun.has_value() && !request.begun->version.empty())
    version = request.begun->version;
  std::vector<Candidate> candidates;
  const Candidate* chosen = nullptr;
  // One that drains is better than none: what it does not compute, the next gang does.
  for (const bool drain : {false, true}) {
    if (chosen != nullptr) break;
    candidates = Candidates(drain);
    chosen = Choose(candidates, version, root, request.prompt, tokens_max);
  }
  // Who comes while its gang is being started anew waits for it, like those that it computed.
  Replica* replica = chosen == nullptr ? AwaitedReplica(version, tokens_max) : chosen->replica;
  if (replica == nullptr) return NoGangFor(version, tokens_max);
  RETURN_IF_ERROR(CheckQueue(request, *replica));
  RETURN_IF_ERROR(CheckDeadline(request, *replica));
  return replica;
}

absl::Status Engine::NoGangFor(const std::optional<std::string>& version,
                               uint64_t tokens_max) const {
  if (!supervisor_.has_gang()) {
    return WithRetry(absl::UnavailableError(
                         absl::StrCat("no workers are ready to serve; ", options_.worker_hint)),
                     kNoGangRetryMs);
  }
  if (!version.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and max_tokens come to ", tokens_max,
                                                   " tokens, the workers serve a context of ",
                                                   max_model_len()));
  }
  const std::string begun = absl::StrCat("the answer was begun with version ",
                                         absl::CHexEscape(*version), " of the model, and ");
  // The gangs of the coordinator before join one by one, and this one's may not be the first.
  if (Clock::now() < gangs_return_until_) {
    return WithRetry(absl::UnavailableError(absl::StrCat(begun, "its workers may still join")),
                     kNoGangRetryMs);
  }
  return absl::FailedPreconditionError(
      absl::StrCat(begun,
                   "no workers that serve it now hold it; ask again with another idempotency key, "
                   "or start workers as they were"));
}

Replica* Engine::AwaitedReplica(const std::optional<std::string>& version,
                                uint64_t tokens_max) const {
  const auto found = std::find_if(replicas_.begin(), replicas_.end(), [&](const auto& replica) {
    return replica->awaits_gang() && replica->WouldTake(version, tokens_max);
  });
  return found == replicas_.end() ? nullptr : found->get();
}

std::vector<Engine::Candidate> Engine::Candidates(bool drain) const {
  std::vector<Candidate> candidates;
  for (const auto& replica : replicas_) {
    if (!replica->serves() || replica->draining().has_value() != drain) continue;
    candidates.push_back({.replica = replica.get()});
  }
  if (candidates.size() == 1) return candidates;  // there is nothing to compare
  for (Candidate& candidate : candidates) {
    candidate.tokens_outstanding = candidate.replica->scheduler().TokensOutstanding();
  }
  return candidates;
}

Engine::Candidate* Engine::Choose(std::vector<Candidate>& candidates,
                                  const std::optional<std::string>& version, const BlockHash& root,
                                  std::span<const int32_t> tokens, uint64_t tokens_max) {
  std::vector<Route> routes;
  for (const Candidate& candidate : candidates) {
    const Scheduler& scheduler = candidate.replica->scheduler();
    const bool compare = candidates.size() > 1;
    routes.push_back({.fits = candidate.replica->CanTake(version, tokens_max),
                      .cached_tokens = compare ? scheduler.CachedTokens(root, tokens) : 0,
                      .tokens_outstanding = candidate.tokens_outstanding});
  }
  const std::optional<size_t> chosen = ChooseRoute(routes);
  return chosen.has_value() ? &candidates[*chosen] : nullptr;
}

void Engine::RouteAgain(const std::vector<uint64_t>& request_ids) {
  std::vector<Candidate> candidates = Candidates(/*drain=*/false);
  for (const uint64_t id : request_ids) {
    Request& request = requests_.at(id);
    Scheduler& from = request.replica->scheduler();
    const Sequence& first = *from.Find(request.open_sequences.front());
    const uint64_t tokens = first.tokens_max() * request.open_sequences.size();
    for (Candidate& candidate : candidates) {
      if (candidate.replica == request.replica && candidates.size() > 1) {
        candidate.tokens_outstanding -= tokens;
      }
    }
    Candidate* to =
        Choose(candidates, request.version, first.cache_root, first.tokens, first.tokens_max());
    if (to == nullptr) continue;
    to->tokens_outstanding += tokens;
    if (to->replica == request.replica) continue;
    to->replica->scheduler().Add(from.Take(request.open_sequences));
    request.replica = to->replica;
  }
}

std::vector<uint64_t> Engine::RequestsOf(const Replica& replica) const {
  std::vector<uint64_t> ids;
  for (const auto& [id, request] : requests_) {
    if (request.replica == &replica) ids.push_back(id);
  }
  return ids;
}

std::vector<uint64_t> Engine::UnbegunRequests() const {
  std::vector<uint64_t> ids;
  for (const auto& [id, request] : requests_) {
    const Scheduler& scheduler = request.replica->scheduler();
    const auto unbegun = [&](uint64_t sequence) {
      return scheduler.Find(sequence)->last_step == 0;
    };
    if (std::all_of(request.open_sequences.begin(), request.open_sequences.end(), unbegun)) {
      ids.push_back(id);
    }
  }
  return ids;
}

absl::Status Engine::CheckQueue(const GenerationRequest& request, const Replica& replica) const {
  size_t waiting = 0;
  size_t running = 0;
  size_t of_tenant = 0;
  size_t places = 0;
  for (const auto& each : replicas_) {
    const Scheduler& scheduler = each->scheduler();
    waiting += scheduler.num_waiting();
    running += scheduler.num_running();
    of_tenant += scheduler.num_sequences_of(request.tenant);
    if (each->serves()) places += options_.replica.scheduler.max_num_seqs;
  }
  const double after_ms =
      replica.load().FirstTokenMs(replica.QueueAhead(request.priority, request.prompt.size()));
  if (waiting + running + request.n > places + options_.max_waiting) {
    return TryAgain(
        absl::StrCat("the queue is full: ", waiting, " sequences wait and ", running,
                     " run; try again later, or raise --max-waiting (", options_.max_waiting, ")"),
        after_ms);
  }
  if (prompt_tokens_ > 0 && prompt_tokens_ + request.prompt.size() * request.n > kPromptTokensMax) {
    return TryAgain(absl::StrCat("the queue is full: its prompts have ", prompt_tokens_,
                                 " tokens; try again later"),
                    after_ms);
  }
  if (of_tenant + request.n > options_.max_waiting_per_tenant + places) {
    return TryAgain(absl::StrCat("the tenant's queue is full: ", of_tenant,
                                 " of its sequences wait or run; try again later, or raise "
                                 "--max-waiting-per-tenant (",
                                 options_.max_waiting_per_tenant, ")"),
                    after_ms);
  }
  return absl::OkStatus();
}

absl::Status Engine::CheckDeadline(const GenerationRequest& request, const Replica& replica) const {
  if (!request.deadline.has_value()) return absl::OkStatus();
  const double left_ms = Milliseconds(*request.deadline - Clock::now());
  const LoadEstimate& load = replica.load();
  const LoadEstimate::Queue queue = replica.QueueAhead(request.priority, request.prompt.size());
  const double total_ms = kDeadlineMargin * load.TotalMs(queue, request.max_tokens);
  if (total_ms <= left_ms) return absl::OkStatus();
  return TryAgain(absl::StrCat("the call's deadline is ", std::llround(left_ms),
                               " ms away, an answer takes about ", std::llround(total_ms),
                               " ms now (first token ", std::llround(load.FirstTokenMs(queue)),
                               " ms, ", queue.sequences_ahead,
                               " sequences go first); try again later, or allow more time"),
                  total_ms - left_ms);
}

Replica* Engine::VacantReplica(const GangIsReady& ready) const {
  const auto unlike = [&](const Replica& replica) {
    const int64_t more = int64_t{replica.capacity().max_model_len} - ready.capacity.max_model_len;
    return std::pair(replica.version() != ready.version, std::abs(more));
  };
  Replica* vacant = nullptr;
  for (const auto& replica : replicas_) {
    if (replica->serves() || !CanTakeOver(*replica, ready)) continue;
    if (vacant == nullptr || unlike(*replica) < unlike(*vacant)) vacant = replica.get();
  }
  return vacant;
}

bool Engine::CanTakeOver(const Replica& replica, const GangIsReady& ready) const {
  const std::vector<uint64_t> ids = RequestsOf(replica);
  return replica.scheduler().AllFit(ready.capacity) &&
         std::all_of(ids.begin(), ids.end(), [&](uint64_t id) {
           return requests_.at(id).version.value_or(ready.version) == ready.version;
         });
}

bool Engine::MustFinish(const Replica& replica) const {
  const auto accepts = [](const auto& other) { return other->accepts(); };
  if (std::none_of(replicas_.begin(), replicas_.end(), accepts)) return false;
  const std::vector<uint64_t> ids = RequestsOf(replica);
  return std::any_of(ids.begin(), ids.end(), [&](uint64_t id) {
    const Request& request = requests_.at(id);
    const uint64_t tokens_max =
        replica.scheduler().Find(request.open_sequences.front())->tokens_max();
    return std::none_of(replicas_.begin(), replicas_.end(), [&](const auto& other) {
      return other->accepts() && other->CanTake(request.version, tokens_max);
    });
  });
}

}  // namespace trireme
