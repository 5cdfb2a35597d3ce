#include "parallel/collective_watch.h"

#include <numeric>
#include <utility>

#include "base/status_macros.h"

namespace trireme {

CollectiveWatch::State CollectiveWatch::state() const {
  const std::lock_guard lock(mutex_);
  State state{.done = done_, .current = {}};
  if (current_.has_value()) {
    state.current = {.what = current_->what, .ranks = *current_->ranks, .bytes = current_->bytes};
  }
  return state;
}

void CollectiveWatch::Begin(const Call& call) {
  const std::lock_guard lock(mutex_);
  current_ = call;
}

void CollectiveWatch::End() {
  const std::lock_guard lock(mutex_);
  current_.reset();
  ++done_;
}

class WatchedCommunicator final : public Communicator {
 public:
  // `ranks` are the group's, by their ranks in the world.
  WatchedCommunicator(std::unique_ptr<Communicator> group, CollectiveWatch& watch,
                      const std::vector<int>& ranks)
      : group_(std::move(group)), watch_(watch), ranks_(ranks) {
    for (const int each : ranks) alone_.push_back({each});
    others_ = ranks;
    others_.erase(others_.begin() + group_->rank());
  }

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  std::string_view name() const override { return group_->name(); }

  absl::Status Send(std::span<const std::byte> data, int destination) override {
    return Watch("send", destination, data.size(), [&] { return group_->Send(data, destination); });
  }
  absl::Status Recv(std::span<std::byte> data, int source) override {
    return Watch("receive", source, data.size(), [&] { return group_->Recv(data, source); });
  }
  // Nothing but AllReduceSum calls it.
  absl::Status SendRecv(std::span<const std::byte> send, std::span<std::byte> receive,
                        int peer) override {
    return Watch("all-reduce", peer, receive.size(),
                 [&] { return group_->SendRecv(send, receive, peer); });
  }
  absl::Status Post(std::span<const std::byte> data, int destination) override {
    return group_->Post(data, destination);
  }
  absl::Status Take(std::span<std::byte> data, int source) override {
    return Watch("message", source, data.size(), [&] { return group_->Take(data, source); });
  }
  absl::Status Barrier() override {
    return Watch("barrier", kAll, 0, [&] { return group_->Barrier(); });
  }
  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    return Watch("broadcast", root == rank() ? kAll : root, data.size(),
                 [&] { return group_->Broadcast(data, root); });
  }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    return Watch("all-gather", kAll, all.size(), [&] { return group_->AllGather(mine, all); });
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override {
    std::unique_ptr<Communicator> group;
    RETURN_IF_ERROR(Watch("split", kAll, 0, [&]() -> absl::Status {
      ASSIGN_OR_RETURN(group, group_->Split(color, key));
      return absl::OkStatus();
    }));
    std::vector<int> ranks(static_cast<size_t>(group->size()));
    const int mine = ranks_[static_cast<size_t>(rank())];
    RETURN_IF_ERROR(group->AllGather(std::as_bytes(std::span(&mine, 1)),
                                     std::as_writable_bytes(std::span(ranks))));
    return std::make_unique<WatchedCommunicator>(std::move(group), watch_, ranks);
  }

 private:
  static constexpr int kAll = -1;

  template <typename Call>
  absl::Status Watch(const char* what, int peer, size_t bytes, Call call) {
    const bool one = peer >= 0 && peer < size();
    watch_.Begin({.what = what,
                  .ranks = one ? &alone_[static_cast<size_t>(peer)] : &others_,
                  .bytes = bytes});
    absl::Status status = call();
    watch_.End();
    return status;
  }

  const std::unique_ptr<Communicator> group_;
  CollectiveWatch& watch_;
  const std::vector<int> ranks_;
  std::vector<std::vector<int>> alone_;  // each of ranks_
  std::vector<int> others_;              // ranks_ without this one
};

std::unique_ptr<Communicator> WatchCollectives(std::unique_ptr<Communicator> world,
                                               CollectiveWatch& watch) {
  std::vector<int> ranks(static_cast<size_t>(world->size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return std::make_unique<WatchedCommunicator>(std::move(world), watch, ranks);
}

}  // namespace trireme
