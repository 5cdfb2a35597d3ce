#include "worker/control_stream.h"

#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "worker/missed_messages.h"

namespace trireme {
namespace {

// A coordinator sends a few more plans ahead than there are pipeline stages.
constexpr size_t kUnreadMax = 1024;
// Ranks compute together, so none is further ahead of another.
constexpr size_t kLatestMax = 1024;
constexpr size_t kLatestBytesMax = size_t{256} << 20;
constexpr int kBeatsPerLease = 8;
// What is left of a lease when its end is said in words; the kernel, which ends what cannot speak,
// has none.
constexpr int kLastWordsShare = 16;
// For an orderly end, which waits for all ranks, of which one may be stuck.
constexpr std::chrono::seconds kEndTimeout{10};
// For the step under way when the stream ends, which may be another rank's, and the agreement after
// it.
constexpr std::chrono::seconds kLastStepTimeout{30};
constexpr std::chrono::milliseconds kLastWords{200};
// By how much the ranks' streams may end later than each other, where they still agree.
constexpr std::chrono::seconds kWelcomeTimeout{1};
constexpr std::chrono::milliseconds kWelcomePoll{20};

[[noreturn]] void EndProcess(std::string_view why, int exit_code = 1) {
  LogError(why);
  std::_Exit(exit_code);
}

}  // namespace

ControlStream::ControlStream(v1::WorkerControl::Stub& stub, const v1::Register& registration,
                             const CollectiveWatch* watch, Communicator* ranks,
                             ServingBarrier& barrier)
    : watch_(watch), ranks_(ranks), barrier_(barrier), stream_(stub.Connect(&context_)) {
  v1::WorkerMessage message;
  *message.mutable_register_() = registration;
  Send(message);
  reader_ = std::thread([this] { Read(); });
}

ControlStream::~ControlStream() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  context_.TryCancel();
  reader_.join();
  if (beats_.joinable()) beats_.join();
}

std::optional<v1::CoordinatorMessage> ControlStream::Next(
    std::optional<Clock::time_point> deadline) {
  std::unique_lock lock(mutex_);
  const auto come = [this] { return complete_ || !unread_.empty(); };
  while (true) {
    if (deadline.has_value()) {
      changed_.wait_until(lock, *deadline, come);
    } else {
      changed_.wait(lock, come);
    }
    if (unread_.empty()) return std::nullopt;
    v1::CoordinatorMessage message = std::move(unread_.front());
    unread_.pop_front();
    changed_.notify_all();
    const bool of_service = message.has_welcome() || message.has_plan() || message.has_self_test();
    if (!of_service || Serves(lock)) return message;
  }
}

// Waits until it is known whether all ranks are to serve. At the end of the stream OnEnd says it;
// those that a Shutdown reaches first may not get a Welcome any more.
bool ControlStream::Serves(std::unique_lock<std::mutex>& lock) {
  Clock::time_point until = Clock::time_point::max();
  while (!serving_ && !complete_ && Clock::now() < until) {
    if (shut_down_) until = std::min(until, Clock::now() + kWelcomeTimeout);
    lock.unlock();
    const bool passed = barrier_.PassedBy(Clock::now() + kWelcomePoll);
    lock.lock();
    if (passed && !ended_) serving_ = true;
  }
  return serving_;
}

bool ControlStream::HasNext() {
  const std::lock_guard lock(mutex_);
  return complete_ || !unread_.empty();
}

bool ControlStream::Send(const v1::WorkerMessage& message) {
  const std::lock_guard lock(write_mutex_);
  return stream_->Write(message);
}

void ControlStream::SendsDone() {
  {
    const std::lock_guard lock(mutex_);
    sends_done_ = true;
  }
  const std::lock_guard lock(write_mutex_);
  stream_->WritesDone();
}

void ControlStream::SendLast(const v1::WorkerMessage& message) {
  {
    const std::lock_guard lock(mutex_);
    sends_done_ = true;
  }
  const std::lock_guard lock(write_mutex_);
  stream_->WriteLast(message, {});
}

grpc::Status ControlStream::Finish() {
  const std::lock_guard lock(mutex_);
  return how_ended_;
}

absl::Status ControlStream::KeepLease(std::chrono::milliseconds lease) {
  if (lease.count() < 1 || lease > std::chrono::hours(1) || beats_.joinable()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the coordinator offers a lease of ", lease.count(),
                     " ms; coordinator and workers must be of the same version"));
  }
  absl::StatusOr<std::unique_ptr<Lease>> taken = Lease::Take(lease);
  if (!taken.ok()) return taken.status();
  {
    const std::lock_guard lock(mutex_);
    lease_ = *std::move(taken);
    lease_length_ = lease;
    answered_ = Clock::now();
    if (ended_) SetEnd();  // what Next returns may be from before
  }
  beats_ = std::thread([this] { Beat(); });
  return absl::OkStatus();
}

void ControlStream::BeginStep(uint64_t step) {
  const std::lock_guard lock(mutex_);
  progress_.set_step_begun(step);
}

void ControlStream::EndStep(uint64_t step) {
  const std::lock_guard lock(mutex_);
  progress_.set_step_done(step);
}

void ControlStream::BeginSelfTest() {
  const std::lock_guard lock(mutex_);
  testing_ = true;
}

void ControlStream::EndSelfTest() {
  const std::lock_guard lock(mutex_);
  testing_ = false;
  progress_.set_self_tests(progress_.self_tests() + 1);
}

void ControlStream::Drain() {
  const std::lock_guard lock(mutex_);
  if (shut_down_ || ended_ || lease_ == nullptr) std::_Exit(128 + SIGTERM);
  draining_ = true;
  changed_.notify_all();
}

void ControlStream::Read() {
  v1::CoordinatorMessage message;
  while (stream_->Read(&message)) {
    if (message.has_heartbeat()) {
      Renew(message.heartbeat());
      continue;
    }
    if (message.has_shutdown()) OnShutdown(message.shutdown());
    if (message.has_welcome()) barrier_.Enter();
    if (message.has_plan() || message.has_self_test()) {
      ++received_;
      Keep(message);
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return closing_ || unread_.size() < kUnreadMax; });
    welcomed_ = welcomed_ || message.has_welcome();
    unread_.push_back(std::move(message));
    changed_.notify_all();
  }
  OnEnd();
}

void ControlStream::Keep(const v1::CoordinatorMessage& message) {
  latest_.push_back(message);
  latest_bytes_ += message.ByteSizeLong();
  while (latest_.size() > kLatestMax || (latest_bytes_ > kLatestBytesMax && latest_.size() > 1)) {
    latest_bytes_ -= latest_.front().ByteSizeLong();
    latest_.pop_front();
  }
}

void ControlStream::OnEnd() {
  const grpc::Status status = stream_->Finish();
  // Else by a coordinator that refuses this rank, and ends the gang.
  const bool gone = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                    status.error_code() == grpc::StatusCode::CANCELLED;
  std::unique_lock lock(mutex_);
  ended_ = true;
  how_ended_ = status;
  changed_.notify_all();
  if (lease_ != nullptr && !shut_down_) SetEnd();
  if (welcomed_ && !serving_ && !closing_) {
    lock.unlock();
    const bool passed = barrier_.PassedBy(Clock::now() + kWelcomeTimeout);
    lock.lock();
    serving_ = passed;
  }
  if (serving_ && gone && !shut_down_ && !sends_done_ && !closing_ && ranks_ != nullptr) {
    lock.unlock();
    TakeMissed();  // the end of the lease ends a wait for ranks whose stream goes on
    lock.lock();
  }
  complete_ = true;
  changed_.notify_all();
}

// A rank that computes a plan waits for those that have not got it.
void ControlStream::TakeMissed() {
  absl::StatusOr<std::vector<v1::CoordinatorMessage>> missed =
      MissedMessages(received_, latest_, *ranks_);
  if (!missed.ok()) {
    EndProcess(absl::StrCat("the coordinator is gone, and so is the gang: ",
                            std::string(missed.status().message())));
  }
  if (missed->empty()) return;
  LogInfo(absl::StrCat("the coordinator went in the middle: ", missed->size(),
                       " of its messages had reached other ranks only"));
  const std::lock_guard lock(mutex_);
  for (v1::CoordinatorMessage& message : *missed) unread_.push_back(std::move(message));
  if (lease_ != nullptr) SetEnd();
}

// Needs mutex_.
void ControlStream::SetEnd() {
  end_ = Clock::now() + kLastStepTimeout;
  lease_->EndAt(end_);
}

ControlStream::Clock::time_point ControlStream::LastWords() const {
  return answered_ + lease_length_ - lease_length_ / kLastWordsShare;
}

void ControlStream::Renew(const v1::Heartbeat& heartbeat) {
  const Clock::time_point sent{std::chrono::nanoseconds(heartbeat.sent_ns())};
  const std::lock_guard lock(mutex_);
  if (lease_ == nullptr || over() || sent <= answered_ || sent > Clock::now()) return;
  answered_ = sent;
  lease_->EndAt(sent + lease_length_);
}

void ControlStream::OnShutdown(const v1::Shutdown& shutdown) {
  const std::lock_guard lock(mutex_);
  if (shutdown.lost()) {
    EndProcess(absl::StrCat("stopping: ", shutdown.reason()), draining_ ? 128 + SIGTERM : 1);
  }
  shut_down_ = true;
  if (lease_ != nullptr) lease_->EndAt(Clock::now() + kEndTimeout);
}

v1::Progress ControlStream::MakeProgress() const {
  v1::Progress progress = progress_;
  progress.set_sent_ns(Clock::now().time_since_epoch().count());
  if (watch_ == nullptr) return progress;
  const CollectiveWatch::State state = watch_->state();
  progress.set_exchanges_done(state.done);
  if (!state.current.has_value()) return progress;
  v1::Exchange& exchange = *progress.mutable_exchange();
  exchange.set_what(state.current->what);
  exchange.set_bytes(state.current->bytes);
  for (const int rank : state.current->ranks) exchange.add_ranks(static_cast<uint32_t>(rank));
  return progress;
}

void ControlStream::Beat() {
  bool drain_sent = false;
  std::unique_lock lock(mutex_);
  while (!over()) {
    v1::WorkerMessage message;
    if (draining_ && !std::exchange(drain_sent, true)) {
      message.mutable_drain();
    } else {
      *message.mutable_progress() = MakeProgress();
    }
    lock.unlock();
    Send(message);  // if it fails, nothing will be answered
    lock.lock();
    // Also between two beats: the last one may be as late as the end of the lease.
    changed_.wait_until(lock, std::min(Clock::now() + lease_length_ / kBeatsPerLease, LastWords()),
                        [&] { return over() || (draining_ && !drain_sent); });
    if (over() || Clock::now() < LastWords()) continue;
    if (computing())
      EndProcess("the coordinator is silent: this rank ends, as its place may be taken");
    LogWarning("the coordinator is silent");
    // In this order: who has more than its lease can say nothing on this stream.
    context_.TryCancel();
    SetEnd();
    changed_.wait(lock, [this] { return over(); });
  }
  if (closing_ || shut_down_) return;
  while (!closing_ && Clock::now() < end_ - kLastWords) {
    changed_.wait_until(lock, end_ - kLastWords);
  }
  if (closing_) return;
  EndProcess(
      "the coordinator is gone, and not every rank has come to the end of the same step: this rank "
      "ends, and its gang with it");
}

}  // namespace trireme
