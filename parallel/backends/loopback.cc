// Ranks as threads of one process. Each ordered pair of ranks has one channel, through which the
// receiver copies straight out of the sender's buffer: a send returns once it was received. The
// state of a channel is one atomic that both sides wait on, so an idle rank sleeps in the kernel.
// Posted messages wait in a mailbox of the pair.

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "parallel/communicator.h"

namespace trireme {
namespace {

// kEmpty -> kFull by the sender, -> kCopying -> kEmpty by the receiver. Either side closes it for
// good; never while the receiver copies, since the sender's buffer must live until then.
enum class ChannelState : uint32_t { kEmpty, kFull, kCopying, kClosed };

enum class Taken { kOk, kClosed, kWrongSize };

class Channel {
 public:
  // Offers `data` to the receiver. False if the channel is closed.
  bool Offer(std::span<const std::byte> data) {
    data_ = data;
    taken_ = false;
    return Move(ChannelState::kEmpty, ChannelState::kFull);
  }

  // Waits until the receiver has copied what was offered. False if it never will. A receiver may
  // have left since it took the data, which is no failure.
  bool WaitTaken() {
    ChannelState state = state_.load();
    while (state == ChannelState::kFull || state == ChannelState::kCopying) {
      state_.wait(state);
      state = state_.load();
    }
    return taken_;
  }

  // Waits for an offer and copies it. On kWrongSize, `sent` is the sender's size and nothing is
  // copied.
  Taken Receive(std::span<std::byte> into, size_t& sent) {
    state_.wait(ChannelState::kEmpty);
    if (!Move(ChannelState::kFull, ChannelState::kCopying)) return Taken::kClosed;
    sent = data_.size();
    const bool fits = sent == into.size();
    if (fits && sent > 0) std::memcpy(into.data(), data_.data(), sent);
    taken_ = fits;
    state_.store(fits ? ChannelState::kEmpty : ChannelState::kClosed);
    state_.notify_all();
    return fits ? Taken::kOk : Taken::kWrongSize;
  }

  void Close() {
    ChannelState state = state_.load();
    while (state != ChannelState::kClosed) {
      if (state == ChannelState::kCopying) {
        state_.wait(state);
        state = state_.load();
      } else if (state_.compare_exchange_weak(state, ChannelState::kClosed)) {
        state_.notify_all();
        return;
      }
    }
  }

 private:
  bool Move(ChannelState from, ChannelState to) {
    if (!state_.compare_exchange_strong(from, to)) return false;
    state_.notify_all();
    return true;
  }

  std::atomic<ChannelState> state_ = ChannelState::kEmpty;
  // The sender's in kEmpty and kClosed, the receiver's in kCopying.
  std::span<const std::byte> data_;
  bool taken_ = false;
};

// Copies of what one rank posted to another. Those that arrived before it closed can be taken
// after.
class Mailbox {
 public:
  // False if the mailbox is closed.
  bool Put(std::span<const std::byte> data) {
    std::vector<std::byte> copy(data.begin(), data.end());
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    messages_.push_back(std::move(copy));
    changed_.notify_one();
    return true;
  }

  // Waits for a message. On kWrongSize, `sent` is its size.
  Taken Get(std::span<std::byte> into, size_t& sent) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || !messages_.empty(); });
    if (messages_.empty()) return Taken::kClosed;
    const std::vector<std::byte> message = std::move(messages_.front());
    messages_.pop_front();
    lock.unlock();
    sent = message.size();
    if (sent != into.size()) return Taken::kWrongSize;
    if (sent > 0) std::memcpy(into.data(), message.data(), sent);
    return Taken::kOk;
  }

  void Close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::vector<std::byte>> messages_;  // under mutex_, as closed_
  bool closed_ = false;
};

// What the ranks of one group share.
class Group {
 public:
  explicit Group(int size)
      : size_(size),
        channels_(static_cast<size_t>(size) * size),
        mailboxes_(static_cast<size_t>(size) * size) {}

  int size() const { return size_; }
  Channel& channel(int from, int to) { return channels_[static_cast<size_t>(from) * size_ + to]; }
  Mailbox& mailbox(int from, int to) { return mailboxes_[static_cast<size_t>(from) * size_ + to]; }

  // The group that the ranks of color `color` form in the `sequence`th split. Each of its `size`
  // ranks asks once, the last one takes it out.
  std::shared_ptr<Group> Child(int sequence, int color, int size) {
    const std::lock_guard lock(mutex_);
    auto [it, inserted] = children_.try_emplace({sequence, color});
    if (inserted) it->second = {std::make_shared<Group>(size), size};
    std::shared_ptr<Group> child = it->second.group;
    if (--it->second.missing == 0) children_.erase(it);
    return child;
  }

 private:
  struct PendingChild {
    std::shared_ptr<Group> group;
    int missing = 0;
  };

  const int size_;
  std::vector<Channel> channels_;
  std::vector<Mailbox> mailboxes_;
  std::mutex mutex_;
  std::map<std::pair<int, int>, PendingChild> children_;  // by (sequence, color); under mutex_
};

class LoopbackCommunicator final : public Communicator {
 public:
  LoopbackCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}
  ~LoopbackCommunicator() override { Leave(); }

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }
  std::string_view name() const override { return "loopback"; }

  absl::Status Send(std::span<const std::byte> data, int destination) override {
    RETURN_IF_ERROR(CheckPeer(destination));
    RETURN_IF_ERROR(Offer(data, destination));
    return WaitTaken(destination);
  }

  absl::Status Recv(std::span<std::byte> data, int source) override {
    RETURN_IF_ERROR(CheckPeer(source));
    return Receive(data, source);
  }

  absl::Status SendRecv(std::span<const std::byte> send, std::span<std::byte> receive,
                        int peer) override {
    RETURN_IF_ERROR(CheckPeer(peer));
    return Exchange(send, peer, receive, peer);
  }

  absl::Status Post(std::span<const std::byte> data, int destination) override {
    RETURN_IF_ERROR(CheckPeer(destination));
    return group_->mailbox(rank_, destination).Put(data) ? absl::OkStatus()
                                                         : Fail(Gone(destination));
  }

  absl::Status Take(std::span<std::byte> data, int source) override {
    RETURN_IF_ERROR(CheckPeer(source));
    size_t sent = 0;
    const Taken taken = group_->mailbox(source, rank_).Get(data, sent);
    return CheckTaken(taken, data.size(), sent, source);
  }

  // Dissemination: after step s every rank has heard, directly or not, of the 2s ranks before it.
  absl::Status Barrier() override {
    for (int step = 1; step < size(); step *= 2) {
      const int next = (rank_ + step) % size();
      const int previous = (rank_ - step + size()) % size();
      RETURN_IF_ERROR(Exchange({}, next, {}, previous));
    }
    return absl::OkStatus();
  }

  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    if (root == rank_) return OfferToAll(data);
    RETURN_IF_ERROR(CheckPeer(root));
    return Receive(data, root);
  }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (all.size() != mine.size() * static_cast<size_t>(size())) {
      return Fail(absl::InvalidArgumentError(absl::StrCat("AllGather: ", all.size(), " bytes for ",
                                                          size(), " blocks of ", mine.size())));
    }
    const auto block = [&](int source) { return all.subspan(source * mine.size(), mine.size()); };
    if (!mine.empty()) std::memmove(block(rank_).data(), mine.data(), mine.size());
    RETURN_IF_ERROR(ForPeers([&](int peer) { return Offer(mine, peer); }));
    RETURN_IF_ERROR(ForPeers([&](int peer) { return Receive(block(peer), peer); }));
    return ForPeers([&](int peer) { return WaitTaken(peer); });
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override;

 private:
  absl::Status CheckPeer(int peer) {
    if (peer >= 0 && peer < size() && peer != rank_) return absl::OkStatus();
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("rank ", rank_, " of ", size(), " cannot exchange data with rank ", peer)));
  }

  template <typename Function>
  absl::Status ForPeers(Function function) {
    // Starting behind the own rank spreads the ranks over different peers.
    for (int i = 1; i < size(); ++i) RETURN_IF_ERROR(function((rank_ + i) % size()));
    return absl::OkStatus();
  }

  absl::Status OfferToAll(std::span<const std::byte> data) {
    RETURN_IF_ERROR(ForPeers([&](int peer) { return Offer(data, peer); }));
    return ForPeers([&](int peer) { return WaitTaken(peer); });
  }

  absl::Status Exchange(std::span<const std::byte> send, int destination,
                        std::span<std::byte> receive, int source) {
    RETURN_IF_ERROR(Offer(send, destination));
    RETURN_IF_ERROR(Receive(receive, source));
    return WaitTaken(destination);
  }

  absl::Status Offer(std::span<const std::byte> data, int peer) {
    return group_->channel(rank_, peer).Offer(data) ? absl::OkStatus() : Fail(Gone(peer));
  }

  absl::Status WaitTaken(int peer) {
    return group_->channel(rank_, peer).WaitTaken() ? absl::OkStatus() : Fail(Gone(peer));
  }

  absl::Status Receive(std::span<std::byte> data, int peer) {
    size_t sent = 0;
    const Taken taken = group_->channel(peer, rank_).Receive(data, sent);
    return CheckTaken(taken, data.size(), sent, peer);
  }

  absl::Status CheckTaken(Taken taken, size_t expected, size_t sent, int peer) {
    if (taken == Taken::kOk) return absl::OkStatus();
    if (taken == Taken::kClosed) return Fail(Gone(peer));
    return Fail(absl::InternalError(absl::StrCat(
        "rank ", rank_, " expected ", expected, " bytes from rank ", peer, ", which sent ", sent)));
  }

  absl::Status Gone(int peer) const {
    return absl::UnavailableError(absl::StrCat("loopback: rank ", peer, " is gone"));
  }

  // After an error nothing may wait on this rank, nor read the buffers it has posted.
  absl::Status Fail(absl::Status status) {
    Leave();
    return status;
  }

  void Leave() {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank_) continue;
      group_->channel(rank_, peer).Close();
      group_->channel(peer, rank_).Close();
      group_->mailbox(rank_, peer).Close();
      group_->mailbox(peer, rank_).Close();
    }
  }

  const std::shared_ptr<Group> group_;
  const int rank_;
  int splits_ = 0;
};

absl::StatusOr<std::unique_ptr<Communicator>> LoopbackCommunicator::Split(int color, int key) {
  struct Choice {
    int color;
    int key;
  };
  const Choice mine = {color, key};
  std::vector<Choice> all(size());
  RETURN_IF_ERROR(
      AllGather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all))));
  int members = 0;
  int before = 0;  // members ordered before this rank
  for (int other = 0; other < size(); ++other) {
    if (all[other].color != color) continue;
    ++members;
    if (std::pair(all[other].key, other) < std::pair(key, rank_)) ++before;
  }
  auto child =
      std::make_unique<LoopbackCommunicator>(group_->Child(splits_++, color, members), before);
  // Nobody may use the new group before all have joined it: a rank that fails here would never
  // close its channels, and its peers would wait for ever.
  RETURN_IF_ERROR(Barrier());
  return child;
}

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeLoopbackCommunicators(int size) {
  CHECK(size > 0);
  const auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> communicators;
  communicators.reserve(size);
  for (int rank = 0; rank < size; ++rank) {
    communicators.push_back(std::make_unique<LoopbackCommunicator>(group, rank));
  }
  return communicators;
}

}  // namespace trireme
