#include "parallel/collective_watch.h"

#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace trireme {

CollectiveWatch::State CollectiveWatch::state() const {
  const std::lock_guard lock(mutex_);
  State state{.done = done_, .waiting = {}};
  if (what_ == nullptr) return state;
  if (peer_ >= 0) {
    state.waiting = absl::StrCat(what_, " rank ", peer_);
  } else {
    state.waiting = absl::StrCat(what_, " of ranks ", absl::StrJoin(ranks_, ", "));
  }
  return state;
}

void CollectiveWatch::Begin(const char* what, int peer, const std::vector<int>& ranks) {
  const std::lock_guard lock(mutex_);
  what_ = what;
  peer_ = peer;
  if (ranks_ != ranks) ranks_ = ranks;
}

void CollectiveWatch::End() {
  const std::lock_guard lock(mutex_);
  what_ = nullptr;
  ++done_;
}

class WatchedCommunicator final : public Communicator {
 public:
  // `ranks` are the group's, by their ranks in the world.
  WatchedCommunicator(std::unique_ptr<Communicator> group, CollectiveWatch& watch,
                      std::vector<int> ranks)
      : group_(std::move(group)), watch_(watch), ranks_(std::move(ranks)) {}

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  std::string_view name() const override { return group_->name(); }

  absl::Status Send(std::span<const std::byte> data, int destination) override {
    return Watch("send to", destination, [&] { return group_->Send(data, destination); });
  }
  absl::Status Recv(std::span<std::byte> data, int source) override {
    return Watch("receive from", source, [&] { return group_->Recv(data, source); });
  }
  absl::Status SendRecv(std::span<const std::byte> send, std::span<std::byte> receive,
                        int peer) override {
    return Watch("exchange with", peer, [&] { return group_->SendRecv(send, receive, peer); });
  }
  absl::Status Post(std::span<const std::byte> data, int destination) override {
    return group_->Post(data, destination);  // does not wait
  }
  absl::Status Take(std::span<std::byte> data, int source) override {
    return Watch("message from", source, [&] { return group_->Take(data, source); });
  }
  absl::Status Barrier() override {
    return Watch("barrier", -1, [&] { return group_->Barrier(); });
  }
  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    return Watch("broadcast", -1, [&] { return group_->Broadcast(data, root); });
  }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    return Watch("all-gather", -1, [&] { return group_->AllGather(mine, all); });
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> group, group_->Split(color, key));
    std::vector<int> ranks(static_cast<size_t>(group->size()));
    const int mine = ranks_[static_cast<size_t>(rank())];
    RETURN_IF_ERROR(group->AllGather(std::as_bytes(std::span(&mine, 1)),
                                     std::as_writable_bytes(std::span(ranks))));
    return std::make_unique<WatchedCommunicator>(std::move(group), watch_, std::move(ranks));
  }

 private:
  template <typename Call>
  absl::Status Watch(const char* what, int peer, Call call) {
    watch_.Begin(what, peer < 0 || peer >= size() ? -1 : ranks_[static_cast<size_t>(peer)], ranks_);
    absl::Status status = call();
    watch_.End();
    return status;
  }

  const std::unique_ptr<Communicator> group_;
  CollectiveWatch& watch_;
  const std::vector<int> ranks_;
};

std::unique_ptr<Communicator> WatchCollectives(std::unique_ptr<Communicator> world,
                                               CollectiveWatch& watch) {
  std::vector<int> ranks(static_cast<size_t>(world->size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return std::make_unique<WatchedCommunicator>(std::move(world), watch, std::move(ranks));
}

}  // namespace trireme
