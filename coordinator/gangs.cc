#include "coordinator/gangs.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/log.h"
#include "base/rank_list.h"
#include "base/status_macros.h"
#include "coordinator/gang_bits.h"
#include "parallel/layout.h"

namespace trireme {
namespace {

constexpr size_t kStreamsMax = 4096;
constexpr uint32_t kWorldSizeMax = 1024;
constexpr size_t kNameBytesMax = 256;
constexpr uint32_t kBlocksMax = 1 << 24;
constexpr size_t kFailureBytesMax = 2000;
// Of the worker timeout. Both count from the same messages, a lease from when the rank sent them.
constexpr double kLeaseShare = 0.9;
// Of a gang that is idle: it costs the next request no more than the step of one token.
constexpr std::chrono::seconds kSelfTestInterval{5};
// The slowest network that is none that is cut: an exchange may take the worker timeout and four
// seconds a MiB.
constexpr uint64_t kSlowestBytesPerSecond = 256 << 10;
// The ranks of a gang register right after an exchange among them all, but those that wait for a
// new coordinator do not all reach it with the same try.
constexpr std::chrono::milliseconds kFormingTimeoutMin{15'000};
constexpr uint64_t kExchangeBytesMax = uint64_t{1} << 40;

v1::CoordinatorMessage ShutdownMessage(const std::string& reason, bool lost) {
  v1::CoordinatorMessage message;
  message.mutable_shutdown()->set_reason(reason);
  message.mutable_shutdown()->set_lost(lost);
  return message;
}

// How long a rank may be in the exchange that it is in, beside the worker timeout.
std::chrono::seconds TransferTime(const v1::Progress& progress) {
  const uint64_t bytes = std::min<uint64_t>(progress.exchange().bytes(), kExchangeBytesMax);
  return std::chrono::seconds(bytes / kSlowestBytesPerSecond);
}

template <typename T>
absl::Status CheckSame(const v1::Register& mine, const T& my_value, const std::string& other,
                       const T& other_value, const char* what) {
  if (my_value == other_value) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(RankName(mine), " has ", what, " ", my_value,
                                                    ", but ", other, " has ", other_value));
}

// Where a rank's registration does not fit into the layout that it names itself.
absl::Status CheckPlace(const v1::Register& registration) {
  const uint64_t tp = registration.tensor_parallel_size();
  const uint64_t pp = registration.pipeline_parallel_size();
  const v1::RankInfo& info = registration.info();
  if (registration.world_size() == 0 || registration.world_size() > kWorldSizeMax ||
      tp * pp != registration.world_size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        RankName(registration), ": tensor_parallel_size ", tp, " x pipeline_parallel_size ", pp,
        " is not world_size ", registration.world_size(), ", or more than ", kWorldSizeMax));
  }
  if (info.rank() >= registration.world_size() || info.tp_rank() != info.rank() % tp ||
      info.pp_rank() != info.rank() / tp) {
    return absl::InvalidArgumentError(
        absl::StrCat(RankName(registration), ": tp_rank ", info.tp_rank(), " and pp_rank ",
                     info.pp_rank(), " are not the place of this rank in tp ", tp, " x pp ", pp));
  }
  return absl::OkStatus();
}

}  // namespace

void GangSupervisor::OnConnect(uint64_t stream_id, std::shared_ptr<WorkerStream> stream,
                               std::string peer, Time now) {
  if (streams_.size() >= kStreamsMax) {
    stream->Close(absl::ResourceExhaustedError("too many control streams"));
    return;
  }
  streams_[stream_id] = Stream{.stream = std::move(stream),
                               .peer = std::move(peer),
                               .registration = {},
                               .progress = {},
                               .heard = now};
}

GangEvent GangSupervisor::OnMessage(uint64_t stream_id, const v1::WorkerMessage& message,
                                    Time now) {
  const auto found = streams_.find(stream_id);
  if (found == streams_.end()) return {};  // closed already
  found->second.heard = now;
  const v1::Register& registration = found->second.registration;
  const bool registered = !registration.gang_id().empty();
  if (message.has_register_() && !registered) {
    return OnRegister(stream_id, message.register_(), now);
  }
  if (message.has_result() && registered) {
    return OnResult(stream_id, message.result(), now);
  }
  if (message.has_progress() && registered) {
    return OnProgress(found->second, message.progress(), now);
  }
  if (message.has_drain() && registered) return OnDrain(stream_id, now);
  if (message.has_failure() && registered) {
    const std::string why = message.failure().message().substr(0, kFailureBytesMax);
    return OnDisconnect(stream_id, absl::StrCat("failed: ", absl::CHexEscape(why)), now);
  }
  return Reject(stream_id,
                absl::InvalidArgumentError(
                    registered ? "a registered rank sends results, progress, a drain or a failure"
                               : "the first message of a stream is a Register"),
                now);
}

GangEvent GangSupervisor::OnProgress(Stream& stream, const v1::Progress& progress, Time now) {
  const bool moved = progress.step_begun() != stream.progress.step_begun() ||
                     progress.step_done() != stream.progress.step_done();
  const bool computes =
      !progress.has_exchange() && (progress.step_begun() > progress.step_done() ||
                                   progress.self_tests() < stream.self_tests_sent);
  if (moved) stream.moved = now;
  if (moved || computes || progress.has_exchange() != stream.progress.has_exchange() ||
      progress.exchanges_done() != stream.progress.exchanges_done()) {
    stream.got_on = now;
  }
  stream.told = now;
  stream.progress = progress;
  v1::CoordinatorMessage answer;
  answer.mutable_heartbeat()->set_sent_ns(progress.sent_ns());
  stream.stream->Send(answer);
  if (!EpochOf(stream.registration.gang_id()).has_value()) return {};
  if (progress.has_exchange()) return CheckDeadlock(stream);
  if (stream.registration.info().rank() != 0) return {};
  return TestIdleGang(std::string(stream.registration.gang_id()), now);
}

// A gang is stuck when some rank is in an exchange and all have told for the worker timeout that
// they neither compute nor exchange anything. Only what ranks have told counts: the coordinator may
// have been asleep itself, and a rank that is silent is CheckSilence's.
GangEvent GangSupervisor::CheckDeadlock(const Stream& waiting) {
  const auto stuck_for = [this](Time told, Time got_on, std::chrono::seconds transfer) {
    return told - got_on >= requirements_.worker_timeout + transfer;
  };
  Time told = waiting.told;
  Time got_on = waiting.got_on;
  std::chrono::seconds transfer = TransferTime(waiting.progress);
  if (!stuck_for(told, got_on, transfer)) return {};
  std::vector<StuckRank> ranks;
  const std::string gang_id = waiting.registration.gang_id();
  for (const auto& [rank, id] : RanksOf(gang_id)) {
    const Stream& stream = streams_.at(id);
    ranks.push_back({&stream.registration, &stream.progress});
    told = std::min(told, stream.told);
    got_on = std::max(got_on, stream.got_on);
    transfer = std::max(transfer, TransferTime(stream.progress));
  }
  if (!stuck_for(told, got_on, transfer)) return {};
  const std::chrono::duration<double> still = told - got_on;
  return EndGang(
      gang_id, absl::StrFormat("it is stuck: no rank has got on for %.1f s (--worker-timeout-s): ",
                               still.count()) +
                   DescribeDeadlock(ranks));
}

// A gang whose ranks all were idle for a while, and have passed the test before. Ends one that does
// not come to its end.
GangEvent GangSupervisor::TestIdleGang(const std::string& gang_id, Time now) {
  const std::map<uint32_t, uint64_t> ranks = RanksOf(gang_id);
  for (const auto& [rank, id] : ranks) {
    const Stream& stream = streams_.at(id);
    const bool tested = stream.progress.self_tests() == stream.self_tests_sent;
    if (!tested && now - stream.moved >= requirements_.self_test_timeout) {
      return EndGang(
          gang_id,
          absl::StrCat("it is stuck: a self-test has not ended within ",
                       std::chrono::duration<double>(requirements_.self_test_timeout).count(),
                       " s (--step-timeout-s): not done by ",
                       Whereabouts(stream.registration, stream.progress)));
    }
    if (!tested || stream.progress.step_begun() != stream.progress.step_done() ||
        now - stream.moved < kSelfTestInterval) {
      return {};
    }
  }
  v1::CoordinatorMessage message;
  message.mutable_self_test();
  for (const auto& [rank, id] : ranks) {
    Stream& stream = streams_.at(id);
    stream.stream->Send(message);
    stream.moved = now;
    ++stream.self_tests_sent;
  }
  return {};
}

GangEvent GangSupervisor::OnDrain(uint64_t stream_id, Time now) {
  const v1::Register& registration = streams_.at(stream_id).registration;
  const std::optional<uint64_t> epoch = EpochOf(registration.gang_id());
  if (!epoch.has_value()) return OnDisconnect(stream_id, "was told to end", now);
  return GangDrains{*epoch, absl::StrCat(RankName(registration), " was told to end")};
}

GangEvent GangSupervisor::OnRegister(uint64_t stream_id, const v1::Register& registration,
                                     Time now) {
  absl::Status status = CheckAlone(registration);
  if (status.ok()) status = CheckForming(registration);
  if (status.ok()) status = CheckModel(registration);
  // Also when no gang serves any more: requests may wait that have tokens.
  if (status.ok() && !first_.empty()) status = CheckSameBits(registration, first_);
  if (status.ok()) status = CheckAgainstPeers(registration);
  if (!status.ok()) return RejectGang(stream_id, registration.gang_id(), status, now);
  forming_.try_emplace(registration.gang_id(), Forming{.since = now, .refused = ""});
  Stream& stream = streams_.at(stream_id);
  stream.registration = registration;
  stream.told = now;
  stream.got_on = now;
  stream.moved = now;  // the first request need not wait for a test
  v1::CoordinatorMessage registered;
  registered.mutable_registered()->set_lease_ms(
      static_cast<uint32_t>(requirements_.worker_timeout.count() * kLeaseShare));
  stream.stream->Send(registered);
  const size_t present = RanksOf(registration.gang_id()).size();
  LogDebug(absl::StrCat(RankName(registration), " registered, ", present, " of ",
                        registration.world_size()));
  if (present < registration.world_size()) return {};
  return StartServing(registration.gang_id());
}

std::vector<GangEvent> GangSupervisor::DrainGang(uint64_t epoch) const {
  if (!serving_.contains(epoch)) return {};
  return {GangDrains{epoch, "an operator has drained it"}};
}

std::vector<GangEvent> GangSupervisor::DrainHost(const std::string& host) {
  const std::string reason = absl::StrCat("an operator has drained host ", absl::CHexEscape(host));
  std::set<std::string> gang_ids;
  for (const auto& [id, stream] : streams_) {
    const v1::Register& registration = stream.registration;
    if (!registration.gang_id().empty() && registration.info().host() == host) {
      gang_ids.insert(registration.gang_id());
    }
  }
  std::vector<GangEvent> events;
  for (const std::string& gang_id : gang_ids) {
    const std::optional<uint64_t> epoch = EpochOf(gang_id);
    events.push_back(epoch.has_value() ? GangDrains{*epoch, reason}
                                       : EndGang(gang_id, reason, End::kReleased));
  }
  return events;
}

absl::Status GangSupervisor::CheckAlone(const v1::Register& registration) const {
  if (registration.gang_id().empty() || registration.gang_id().size() > kNameBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("gang_id must have 1 to ", kNameBytesMax, " bytes"));
  }
  if (registration.info().host().size() > kNameBytesMax ||
      registration.info().device().size() > kNameBytesMax ||
      registration.device_model().size() > kNameBytesMax ||
      registration.communicator().size() > kNameBytesMax ||
      registration.kv_cache_dtype().size() > kNameBytesMax ||
      registration.model().version().size() > kNameBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a name in the registration exceeds ", kNameBytesMax, " bytes"));
  }
  if (requirements_.cordoned != nullptr) {
    RETURN_IF_ERROR(requirements_.cordoned->Check(registration.info().host()));
  }
  RETURN_IF_ERROR(CheckPlace(registration));
  if (registration.kv_block_size() == 0 || registration.kv_blocks() == 0 ||
      registration.max_model_len() == 0 || registration.max_num_batched_tokens() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(RankName(registration),
                     ": kv_block_size, kv_blocks, max_model_len and max_num_batched_tokens must "
                     "all be at least 1"));
  }
  if (registration.kv_blocks() > kBlocksMax || registration.swap_blocks() > kBlocksMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        RankName(registration), ": kv_blocks and swap_blocks must be at most ", kBlocksMax));
  }
  const uint64_t pool = uint64_t{registration.kv_block_size()} * registration.kv_blocks();
  const uint64_t context = std::min<uint64_t>(pool, registration.max_model_len());
  if (requirements_.max_model_len_required && context < requirements_.max_model_len) {
    return absl::FailedPreconditionError(absl::StrCat(
        RankName(registration), " serves a context of ", context, " tokens, the coordinator ",
        requirements_.max_model_len,
        "; give the workers more --kv-memory or lower the coordinator's --max-model-len"));
  }
  return absl::OkStatus();
}

absl::Status GangSupervisor::CheckForming(const v1::Register& registration) const {
  const auto forming = forming_.find(registration.gang_id());
  if (forming == forming_.end() || forming->second.refused.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the gang has ended: ", forming->second.refused));
}

absl::Status GangSupervisor::CheckModel(const v1::Register& registration) const {
  const ModelConfig& config = requirements_.config;
  const v1::ModelIdentity& model = registration.model();
  const std::string coordinator = "the coordinator's model";
  const auto same = [&](uint64_t mine, uint64_t other, const char* what) {
    return CheckSame(registration, mine, coordinator, other, what);
  };
  RETURN_IF_ERROR(CheckSame(registration, absl::CHexEscape(model.architecture()), coordinator,
                            config.architecture, "architecture"));
  RETURN_IF_ERROR(same(model.vocab_size(), static_cast<uint64_t>(config.vocab_size), "vocab_size"));
  RETURN_IF_ERROR(
      same(model.hidden_size(), static_cast<uint64_t>(config.hidden_size), "hidden_size"));
  RETURN_IF_ERROR(same(model.num_layers(), static_cast<uint64_t>(config.num_layers), "num_layers"));
  RETURN_IF_ERROR(same(model.parameters(), config.NumParameters(), "parameters"));
  return CheckLayout(config, {.tp = static_cast<int>(registration.tensor_parallel_size()),
                              .pp = static_cast<int>(registration.pipeline_parallel_size())});
}

absl::Status GangSupervisor::CheckAgainstPeers(const v1::Register& registration) const {
  const std::map<uint32_t, uint64_t> ranks = RanksOf(registration.gang_id());
  if (ranks.empty()) return absl::OkStatus();
  const auto same_rank = ranks.find(registration.info().rank());
  if (same_rank != ranks.end()) {
    return absl::AlreadyExistsError(absl::StrCat(
        RankName(registration), " is already there: ",
        RankName(streams_.at(same_rank->second).registration), " of the same gang registered it"));
  }
  const v1::Register& first = streams_.at(ranks.begin()->second).registration;
  const auto same = [&](const auto& mine, const auto& other, const char* what) {
    return CheckSame(registration, mine, RankName(first), other, what);
  };
  RETURN_IF_ERROR(same(registration.world_size(), first.world_size(), "world_size"));
  RETURN_IF_ERROR(same(absl::CHexEscape(registration.model().version()),
                       absl::CHexEscape(first.model().version()), "model version"));
  RETURN_IF_ERROR(same(registration.tensor_parallel_size(), first.tensor_parallel_size(),
                       "tensor_parallel_size"));
  RETURN_IF_ERROR(same(registration.kv_block_size(), first.kv_block_size(), "kv_block_size"));
  RETURN_IF_ERROR(same(absl::CHexEscape(registration.kv_cache_dtype()),
                       absl::CHexEscape(first.kv_cache_dtype()), "kv_cache_dtype"));
  return same(absl::CHexEscape(registration.communicator()), absl::CHexEscape(first.communicator()),
              "communicator");
}

std::optional<uint64_t> GangSupervisor::EpochOf(const std::string& gang_id) const {
  for (const auto& [epoch, id] : serving_) {
    if (id == gang_id) return epoch;
  }
  return std::nullopt;
}

std::map<uint32_t, uint64_t> GangSupervisor::RanksOf(const std::string& gang_id) const {
  std::map<uint32_t, uint64_t> ranks;
  for (const auto& [id, stream] : streams_) {
    if (stream.registration.gang_id() == gang_id) ranks[stream.registration.info().rank()] = id;
  }
  return ranks;
}

GangEvent GangSupervisor::StartServing(const std::string& gang_id) {
  serving_[++last_epoch_] = gang_id;
  forming_.erase(gang_id);
  GangCapacity capacity{.epoch = last_epoch_,
                        .pipeline_stages = 1,
                        .kv_block_size = 0,
                        .kv_blocks = std::numeric_limits<uint32_t>::max(),
                        .swap_blocks = std::numeric_limits<uint32_t>::max(),
                        .max_model_len = requirements_.max_model_len,
                        .max_num_batched_tokens = std::numeric_limits<uint32_t>::max()};
  v1::CoordinatorMessage welcome;
  welcome.mutable_welcome()->set_epoch(last_epoch_);
  std::vector<v1::Register> ranks;
  for (const auto& [rank, id] : RanksOf(gang_id)) {
    const Stream& stream = streams_.at(id);
    const v1::Register& registration = ranks.emplace_back(stream.registration);
    capacity.kv_block_size = registration.kv_block_size();
    capacity.pipeline_stages = registration.pipeline_parallel_size();
    capacity.kv_blocks = std::min(capacity.kv_blocks, registration.kv_blocks());
    capacity.swap_blocks = std::min(capacity.swap_blocks, registration.swap_blocks());
    capacity.max_model_len = std::min(capacity.max_model_len, registration.max_model_len());
    capacity.max_num_batched_tokens =
        std::min(capacity.max_num_batched_tokens, registration.max_num_batched_tokens());
    stream.stream->Send(welcome);
  }
  const uint64_t pool = uint64_t{capacity.kv_blocks} * capacity.kv_block_size;
  if (pool < capacity.max_model_len) capacity.max_model_len = static_cast<uint32_t>(pool);
  std::string bits = DescribeBits(ranks);
  if (first_.empty()) first_ = std::move(ranks);
  return GangIsReady{capacity, std::move(bits)};
}

GangEvent GangSupervisor::OnResult(uint64_t stream_id, const v1::StepResult& result, Time now) {
  const v1::Register& registration = streams_.at(stream_id).registration;
  // The plan's answer comes from the first rank of the last pipeline stage alone.
  const uint32_t responder =
      (registration.pipeline_parallel_size() - 1) * registration.tensor_parallel_size();
  if (EpochOf(registration.gang_id()) != result.epoch() ||
      registration.info().rank() != responder) {
    return Reject(stream_id, absl::InvalidArgumentError("a result was not this rank's to send"),
                  now);
  }
  return result;
}

GangEvent GangSupervisor::Reject(uint64_t stream_id, const absl::Status& status, Time now) {
  const auto found = streams_.find(stream_id);
  LogWarning(absl::StrCat("refused worker at ", found->second.peer, ": ", status.message()));
  found->second.stream->Close(status);
  return OnDisconnect(stream_id, std::string(status.message()), now);
}

// Of a rank that registers. Its peers would wait for it; those that are still to come hear why not.
GangEvent GangSupervisor::RejectGang(uint64_t stream_id, const std::string& gang_id,
                                     const absl::Status& status, Time now) {
  GangEvent event = Reject(stream_id, status, now);
  const std::string reason(status.message());
  // Who only wants the name or place of another is no loss to that one's gang.
  const bool is_of_it = !gang_id.empty() && gang_id.size() <= kNameBytesMax &&
                        !EpochOf(gang_id).has_value() && !absl::IsAlreadyExists(status);
  const auto forming = forming_.find(gang_id);
  const bool knows = forming != forming_.end() && !forming->second.refused.empty();
  if (!is_of_it || knows) return event;
  if (forming != forming_.end()) EndGang(gang_id, reason);
  if (forming_.size() < kStreamsMax) {
    forming_[gang_id] = {.since = now, .refused = reason};
  }
  return event;
}

GangEvent GangSupervisor::OnDisconnect(uint64_t stream_id, const std::string& why, Time now) {
  const auto found = streams_.find(stream_id);
  if (found == streams_.end()) return {};
  const Stream stream = found->second;
  streams_.erase(found);
  stream.stream->Close(absl::OkStatus());
  const v1::Register& registration = stream.registration;
  if (registration.gang_id().empty()) return {};
  const std::string reason = absl::StrCat(Whereabouts(registration, stream.progress), ": ", why);
  const std::chrono::duration<double> silent = now - stream.heard;
  if (silent <= requirements_.worker_timeout / 2) return EndGang(registration.gang_id(), reason);
  return EndGang(registration.gang_id(),
                 absl::StrFormat("%s; it had been silent for %.1f s, as one that is stopped or "
                                 "starved of CPU, or whose network is gone",
                                 reason, silent.count()),
                 End::kSilent);
}

std::vector<GangEvent> GangSupervisor::CheckSilence(Time now) {
  const std::string timeout =
      absl::StrCat(std::chrono::duration<double>(requirements_.worker_timeout).count(),
                   " s (--worker-timeout-s)");
  std::map<std::string, std::string> ended;  // gangs, and why
  std::vector<uint64_t> strangers;           // streams that should have registered
  for (const auto& [id, stream] : streams_) {
    if (now < stream.heard + requirements_.worker_timeout) continue;
    if (stream.registration.gang_id().empty()) {
      strangers.push_back(id);
      continue;
    }
    ended.emplace(
        stream.registration.gang_id(),
        absl::StrCat(Whereabouts(stream.registration, stream.progress), ": has been silent for ",
                     timeout, ": stopped, starved of CPU, or its host or network is gone"));
  }
  for (const uint64_t id : strangers) {
    Reject(id, absl::DeadlineExceededError("has not registered for " + timeout), now);
  }
  std::vector<GangEvent> events;
  for (const auto& [gang, reason] : ended) events.push_back(EndGang(gang, reason, End::kSilent));
  EndIncomplete(now);
  return events;
}

std::optional<GangSupervisor::Time> GangSupervisor::NextSilence() const {
  std::optional<Time> next;
  for (const auto& [id, stream] : streams_) {
    const Time silent = stream.heard + requirements_.worker_timeout;
    next = std::min(next.value_or(silent), silent);
  }
  for (const auto& [gang_id, forming] : forming_) {
    const Time end = forming.since + FormingTimeout();
    next = std::min(next.value_or(end), end);
  }
  return next;
}

std::chrono::milliseconds GangSupervisor::FormingTimeout() const {
  return std::max(3 * requirements_.worker_timeout, kFormingTimeoutMin);
}

// Ranks that have registered do not watch each other any more; nor do those that keep their weights
// and wait for a coordinator.
void GangSupervisor::EndIncomplete(Time now) {
  std::vector<std::string> ended;
  for (const auto& [gang_id, forming] : forming_) {
    if (now >= forming.since + FormingTimeout()) ended.push_back(gang_id);
  }
  for (const std::string& gang_id : ended) {
    forming_.erase(gang_id);
    const v1::WaitingGang gang = DescribeForming(gang_id);
    if (gang.joined() == 0) continue;
    const std::vector<uint32_t> missing(gang.missing_ranks().begin(), gang.missing_ranks().end());
    EndGang(gang_id, absl::StrCat(RankList(missing), " of ", gang.world_size(),
                                  " has not registered within ",
                                  std::chrono::duration<double>(FormingTimeout()).count(),
                                  " s of the first one"));
  }
}

std::string GangSupervisor::Laggards(uint64_t epoch, uint64_t step) const {
  std::string not_begun;
  std::string not_done;
  const auto append = [](std::string& list, const Stream& stream) {
    absl::StrAppend(&list, list.empty() ? "" : "; ",
                    Whereabouts(stream.registration, stream.progress));
  };
  for (const auto& [rank, id] : RanksOf(serving_.at(epoch))) {
    const Stream& stream = streams_.at(id);
    if (stream.progress.step_begun() < step) {
      append(not_begun, stream);
    } else if (stream.progress.step_done() < step) {
      append(not_done, stream);
    }
  }
  if (!not_begun.empty()) return absl::StrCat("not begun by ", not_begun);
  if (!not_done.empty()) return absl::StrCat("not done by ", not_done);
  return "done by all ranks, but not answered";
}

GangEvent GangSupervisor::LoseGang(uint64_t epoch, const std::string& reason) {
  const auto found = serving_.find(epoch);
  if (found == serving_.end()) return {};
  return EndGang(std::string(found->second), reason);
}

GangEvent GangSupervisor::ReleaseGang(uint64_t epoch, const std::string& reason) {
  const auto found = serving_.find(epoch);
  if (found == serving_.end()) return {};
  return EndGang(std::string(found->second), reason, End::kReleased);
}

GangEvent GangSupervisor::EndGang(const std::string& gang_id, const std::string& reason, End end) {
  for (const auto& [rank, id] : RanksOf(gang_id)) {
    const Stream& stream = streams_.at(id);
    stream.stream->Send(
        ShutdownMessage(absl::StrCat("the gang has ended: ", reason), end != End::kReleased));
    stream.stream->Close(absl::OkStatus());
    streams_.erase(id);
  }
  forming_.erase(gang_id);
  const std::optional<uint64_t> epoch = EpochOf(gang_id);
  if (!epoch.has_value()) {
    LogWarning(absl::StrCat("a gang ended before it was complete: ", reason));
    return {};
  }
  serving_.erase(*epoch);
  LogError(absl::StrCat("gang lost, epoch ", *epoch, ": ", reason));
  return GangIsLost{.epoch = *epoch, .reason = reason, .silent = end == End::kSilent};
}

void GangSupervisor::SendPlan(v1::StepPlan plan) {
  const std::string& gang_id = serving_.at(plan.epoch());
  v1::CoordinatorMessage message;
  *message.mutable_plan() = std::move(plan);
  for (const auto& [id, stream] : streams_) {
    if (stream.registration.gang_id() == gang_id) stream.stream->Send(message);
  }
}

void GangSupervisor::ShutdownAll(const std::string& reason) {
  for (const auto& [id, stream] : streams_) {
    if (!requirements_.keep_workers) stream.stream->Send(ShutdownMessage(reason, /*lost=*/false));
    stream.stream->Close(requirements_.keep_workers ? absl::UnavailableError(reason)
                                                    : absl::OkStatus());
  }
  streams_.clear();
  forming_.clear();
  serving_.clear();
}

v1::WaitingGang GangSupervisor::DescribeForming(const std::string& gang_id) const {
  const std::map<uint32_t, uint64_t> ranks = RanksOf(gang_id);
  v1::WaitingGang gang;
  if (ranks.empty()) return gang;
  gang.set_name(absl::CHexEscape(gang_id));
  gang.set_joined(static_cast<uint32_t>(ranks.size()));
  gang.set_world_size(streams_.at(ranks.begin()->second).registration.world_size());
  for (uint32_t rank = 0; rank < gang.world_size(); ++rank) {
    if (!ranks.contains(rank)) gang.add_missing_ranks(rank);
  }
  for (const auto& [rank, id] : ranks) {
    gang.add_hosts(streams_.at(id).registration.info().host());
  }
  return gang;
}

std::vector<v1::WaitingGang> GangSupervisor::WaitingGangs() const {
  std::vector<v1::WaitingGang> list;
  for (const auto& [gang_id, forming] : forming_) {
    v1::WaitingGang gang = DescribeForming(gang_id);
    if (gang.joined() > 0) list.push_back(std::move(gang));
  }
  return list;
}

v1::ListRanksResponse GangSupervisor::Describe() const {
  v1::ListRanksResponse response;
  response.set_ready(has_gang());
  response.set_epoch(last_epoch_);
  for (const auto& [epoch, gang_id] : serving_) {
    v1::Gang& gang = *response.add_gangs();
    gang.set_epoch(epoch);
    for (const auto& [rank, id] : RanksOf(gang_id)) {
      const v1::Register& registration = streams_.at(id).registration;
      gang.set_tensor_parallel_size(registration.tensor_parallel_size());
      gang.set_pipeline_parallel_size(registration.pipeline_parallel_size());
      gang.set_communicator(registration.communicator());
      gang.set_version(absl::CHexEscape(registration.model().version()));
      *gang.add_ranks() = registration.info();
    }
  }
  return response;
}

}  // namespace trireme
