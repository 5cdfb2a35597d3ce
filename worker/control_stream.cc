#include "worker/control_stream.h"

#include <signal.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "worker/missed_messages.h"

namespace trireme {
namespace {

// A coordinator sends no more than a few plans ahead.
constexpr size_t kUnreadMax = 64;
// Ranks compute together, so none is further ahead of another.
constexpr size_t kLatestMax = 64;
constexpr int kBeatsPerLease = 8;
// What is left of a lease when its end is said in words; the kernel, which ends what cannot speak,
// has none.
constexpr int kLastWordsShare = 16;
// For an orderly end, which waits for all ranks, of which one may be stuck.
constexpr std::chrono::seconds kEndTimeout{10};
// For the step under way when the stream ends, and the agreement after it.
constexpr std::chrono::seconds kLastStepTimeout{30};

[[noreturn]] void EndProcess(std::string_view why, int exit_code = 1) {
  LogError(why);
  std::_Exit(exit_code);
}

}  // namespace

ControlStream::ControlStream(v1::WorkerControl::Stub& stub, const v1::Register& registration,
                             const CollectiveWatch* watch, Communicator* ranks)
    : watch_(watch), ranks_(ranks), stream_(stub.Connect(&context_)) {
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
  if (deadline.has_value()) {
    changed_.wait_until(lock, *deadline, come);
  } else {
    changed_.wait(lock, come);
  }
  if (unread_.empty()) return std::nullopt;
  v1::CoordinatorMessage message = std::move(unread_.front());
  unread_.pop_front();
  changed_.notify_all();
  return message;
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

grpc::Status ControlStream::Finish() { return stream_->Finish(); }

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
    if (message.has_welcome()) serving_ = true;
    if (message.has_plan() || message.has_self_test()) {
      ++received_;
      latest_.push_back(message);
      if (latest_.size() > kLatestMax) latest_.pop_front();
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return closing_ || unread_.size() < kUnreadMax; });
    unread_.push_back(std::move(message));
    changed_.notify_all();
  }
  OnEnd();
}

void ControlStream::OnEnd() {
  bool stays = false;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
    if (lease_ != nullptr && !shut_down_) SetEnd();
    stays = serving_ && !shut_down_ && !sends_done_ && !closing_;
  }
  // The end of the lease ends a wait for ranks whose stream goes on.
  if (stays && ranks_ != nullptr) TakeMissed();
  const std::lock_guard lock(mutex_);
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
  end_ = Clock::now() + (computing() || !unread_.empty() ? kLastStepTimeout : kEndTimeout);
  lease_->EndAt(end_);
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
    changed_.wait_for(lock, lease_length_ / kBeatsPerLease,
                      [&] { return over() || (draining_ && !drain_sent); });
    if (over() || Clock::now() - answered_ < lease_length_ - lease_length_ / kLastWordsShare) {
      continue;
    }
    if (computing())
      EndProcess("the coordinator is silent: this rank ends, as its place may be taken");
    LogWarning("the coordinator is silent");
    context_.TryCancel();
    changed_.wait(lock, [this] { return over(); });
  }
  if (closing_ || shut_down_) return;
  const auto last_words = end_ - std::chrono::milliseconds(200);
  if (changed_.wait_until(lock, last_words, [this] { return closing_; })) return;
  EndProcess(
      "the coordinator is gone, and not every rank has come to the end of the same step: this rank "
      "ends, and its gang with it");
}

}  // namespace trireme
