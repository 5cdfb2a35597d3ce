#include "tests/worker/nccl_emulated.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "parallel/backends/nccl_library.h"

namespace trireme {
namespace {

std::atomic<int> calls_made{0};
std::atomic<int> calls_done{0};
std::atomic<int> losing_rank{-1};

// What the communicators of one unique id share.
class Group {
 public:
  explicit Group(int ranks) : sent_(static_cast<size_t>(ranks)) {}

  int ranks() const { return static_cast<int>(sent_.size()); }
  // What each rank sent with its current call, once all have made it.
  const void* sent(int rank) const { return sent_[static_cast<size_t>(rank)]; }

  // Waits for all ranks. False if one has aborted.
  bool Send(int rank, const void* data) {
    {
      const std::lock_guard lock(mutex_);
      sent_[static_cast<size_t>(rank)] = data;
    }
    return Meet();
  }
  bool Meet() {
    std::unique_lock lock(mutex_);
    if (aborted_) return false;
    const int meeting = meetings_;
    if (++there_ == ranks()) {
      there_ = 0;
      ++meetings_;
      changed_.notify_all();
      return true;
    }
    changed_.wait(lock, [&] { return aborted_ || meetings_ != meeting; });
    return meetings_ != meeting;
  }
  void Abort() {
    const std::lock_guard lock(mutex_);
    aborted_ = true;
    changed_.notify_all();
  }
  bool aborted() const {
    const std::lock_guard lock(mutex_);
    return aborted_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<const void*> sent_;
  int there_ = 0;
  int meetings_ = 0;
  bool aborted_ = false;
};

struct Member {
  std::shared_ptr<Group> group;
  int rank = 0;
};
Member& MemberOf(NcclComm comm) { return *static_cast<Member*>(comm); }

NcclResult Enqueue(NcclComm comm, NcclStream stream,
                   std::function<void(Group& group, int rank)> work) {
  ++calls_made;
  // Graphs may outlive the communicator.
  cuda_emulation::Enqueue(static_cast<cudaStream_t>(stream),
                          [member = MemberOf(comm), work = std::move(work)] {
                            ++calls_done;
                            work(*member.group, member.rank);
                          });
  return NcclResult::kSuccess;
}

NcclResult AllReduce(const void* send, void* receive, size_t count, NcclComm comm,
                     NcclStream stream) {
  return Enqueue(comm, stream, [=](Group& group, int rank) {
    if (!group.Send(rank, send)) return;
    std::vector<float> sums(count);
    for (int peer = 0; peer < group.ranks(); ++peer) {
      const auto* values = static_cast<const float*>(group.sent(peer));
      for (size_t i = 0; i < count; ++i) sums[i] += values[i];
    }
    if (group.Meet()) std::memcpy(receive, sums.data(), count * sizeof(float));
  });
}

NcclResult AllGather(const void* send, void* receive, size_t count, NcclComm comm,
                     NcclStream stream) {
  return Enqueue(comm, stream, [=](Group& group, int rank) {
    if (!group.Send(rank, send)) return;
    for (int peer = 0; peer < group.ranks(); ++peer) {
      std::memmove(static_cast<std::byte*>(receive) + static_cast<size_t>(peer) * count,
                   group.sent(peer), count);
    }
    group.Meet();
  });
}

NcclResult Init(NcclComm* comm, int ranks, const NcclUniqueId& id, int rank) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<Group>> groups;
  const std::lock_guard lock(mutex);
  std::weak_ptr<Group>& known =
      groups[std::string(reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size())];
  std::shared_ptr<Group> group = known.lock();
  if (group == nullptr) known = group = std::make_shared<Group>(ranks);
  *comm = std::make_unique<Member>(Member{.group = std::move(group), .rank = rank}).release();
  return NcclResult::kSuccess;
}

NcclResult State(NcclComm comm, NcclResult* state) {
  const Member& member = MemberOf(comm);
  const bool lost = losing_rank == member.rank || member.group->aborted();
  *state = lost ? NcclResult::kRemoteError : NcclResult::kSuccess;
  return NcclResult::kSuccess;
}

NcclResult Destroy(NcclComm comm) {
  const std::unique_ptr<Member> owned(static_cast<Member*>(comm));
  return NcclResult::kSuccess;
}

}  // namespace

// Point to point is for pipeline stages, which wait for each step.
absl::StatusOr<NcclApi> LoadNccl() {
  NcclApi api;
  api.get_version = [](int* version) {
    *version = 22809;
    return NcclResult::kSuccess;
  };
  api.get_unique_id = [](NcclUniqueId* id) {
    static std::atomic<int> made{0};
    const int number = ++made;
    std::memcpy(id->bytes.data(), &number, sizeof(number));
    return NcclResult::kSuccess;
  };
  api.get_error_string = [](NcclResult) { return "remote process exited"; };
  api.get_last_error = [](NcclComm) { return ""; };
  api.comm_init = Init;
  api.comm_get_async_error = State;
  api.comm_finalize = [](NcclComm) { return NcclResult::kSuccess; };
  api.comm_destroy = Destroy;
  api.comm_abort = [](NcclComm comm) {
    MemberOf(comm).group->Abort();
    return Destroy(comm);
  };
  api.all_reduce = [](const void* send, void* receive, size_t count, NcclDataType, NcclReduction,
                      NcclComm comm,
                      NcclStream stream) { return AllReduce(send, receive, count, comm, stream); };
  api.all_gather = [](const void* send, void* receive, size_t count, NcclDataType, NcclComm comm,
                      NcclStream stream) { return AllGather(send, receive, count, comm, stream); };
  return api;
}

namespace nccl_emulation {

Calls CallsSoFar() { return {.made = calls_made, .done = calls_done}; }
void Lose(int rank) { losing_rank = rank; }
void Reset() {
  calls_made = 0;
  calls_done = 0;
  losing_rank = -1;
}

}  // namespace nccl_emulation
}  // namespace trireme
