#include "tests/parallel/fake_nccl.h"

#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

NcclResult ToResult(const absl::Status& status) {
  return status.ok() ? NcclResult::kSuccess : NcclResult::kRemoteError;
}

template <typename T>
std::span<T> Span(void* data, size_t count) {
  return {static_cast<T*>(data), count};
}

std::span<const std::byte> Bytes(const void* data, size_t count) {
  return {static_cast<const std::byte*>(data), count};
}

}  // namespace

NcclApi FakeNccl::api() {
  NcclApi api;
  api.get_version = [this](int* out) {
    *out = version;
    return NcclResult::kSuccess;
  };
  api.get_unique_id = [this](NcclUniqueId* id) {
    id->bytes.fill(static_cast<std::byte>(made_ + 1));
    return unique_id_result;
  };
  api.get_error_string = [](NcclResult result) {
    return absl::StrCat("result ", static_cast<int>(result));
  };
  api.get_last_error = [this](NcclComm) { return last_error; };
  api.comm_init = [this](NcclComm* comm, int ranks, const NcclUniqueId& id, int rank) {
    return Init(comm, ranks, id, rank);
  };
  api.comm_get_async_error = [this](NcclComm comm, NcclResult* out) {
    EXPECT_EQ(reinterpret_cast<intptr_t>(comm), live_);
    ++asked;
    *out = polls_left_ > 0 ? NcclResult::kInProgress : state;
    if (polls_left_ > 0) --polls_left_;
    return NcclResult::kSuccess;
  };
  api.comm_finalize = [this](NcclComm comm) {
    EXPECT_EQ(reinterpret_cast<intptr_t>(comm), live_);
    ++finalized;
    polls_left_ = polls;
    return finalize_result;
  };
  api.comm_destroy = [this](NcclComm comm) {
    EXPECT_EQ(reinterpret_cast<intptr_t>(comm), live_);
    live_ = 0;
    ++destroyed;
    return NcclResult::kSuccess;
  };
  api.comm_abort = [this](NcclComm comm) {
    EXPECT_EQ(reinterpret_cast<intptr_t>(comm), live_);
    hold_aborts.wait(true);
    live_ = 0;
    ++aborted;
    aborted.notify_all();
    return NcclResult::kSuccess;
  };
  api.all_reduce = [this](const void* send, void* receive, size_t count, NcclDataType type,
                          NcclReduction reduction, NcclComm comm, NcclStream on) {
    EXPECT_EQ(type, NcclDataType::kFloat32);
    EXPECT_EQ(reduction, NcclReduction::kSum);
    if (!Begin(absl::StrCat("AllReduce ", count), comm, on)) return call_result;
    return AllReduce(send, receive, count);
  };
  api.all_gather = [this](const void* send, void* receive, size_t count, NcclDataType type,
                          NcclComm comm, NcclStream on) {
    EXPECT_EQ(type, NcclDataType::kUint8);
    if (!Begin(absl::StrCat("AllGather ", count), comm, on)) return call_result;
    return AllGather(send, receive, count);
  };
  api.send = [this](const void* data, size_t count, NcclDataType type, int peer, NcclComm comm,
                    NcclStream on) {
    EXPECT_EQ(type, NcclDataType::kUint8);
    if (!Begin(absl::StrCat("Send ", count), comm, on)) return call_result;
    return Send(data, count, peer);
  };
  api.receive = [this](void* data, size_t count, NcclDataType type, int peer, NcclComm comm,
                       NcclStream on) {
    EXPECT_EQ(type, NcclDataType::kUint8);
    if (!Begin(absl::StrCat("Recv ", count), comm, on)) return call_result;
    return Receive(data, count, peer);
  };
  return api;
}

NcclResult FakeNccl::Init(NcclComm* comm, int ranks, const NcclUniqueId& id, int rank) {
  EXPECT_EQ(ranks, wires_.size());
  EXPECT_EQ(rank, wires_.rank());
  EXPECT_EQ(live_, 0) << "the last communicator still lives";
  ids.push_back(id);
  live_ = ++made_;
  polls_left_ = polls;
  *comm = reinterpret_cast<NcclComm>(static_cast<intptr_t>(live_));
  return init_result;
}

bool FakeNccl::Begin(std::string call, NcclComm comm, NcclStream on) {
  EXPECT_EQ(reinterpret_cast<intptr_t>(comm), live_);
  EXPECT_EQ(polls_left_, 0) << "a call before the last one was enqueued";
  calls.push_back(std::move(call));
  stream = on;
  polls_left_ = polls;
  const bool accepted =
      call_result == NcclResult::kInProgress || call_result == NcclResult::kSuccess;
  return accepted && state == NcclResult::kSuccess;
}

NcclResult FakeNccl::AllReduce(const void* send, void* receive, size_t count) {
  EXPECT_EQ(send, receive);
  std::vector<float> sums = device_.Download(Span<float>(receive, count));
  const NcclResult result = ToResult(wires_.AllReduceSum(sums));
  EXPECT_TRUE(device_
                  .CopyIn(std::as_bytes(std::span(sums)),
                          std::as_writable_bytes(Span<float>(receive, count)))
                  .ok());
  return result == NcclResult::kSuccess ? call_result : result;
}

NcclResult FakeNccl::AllGather(const void* send, void* receive, size_t count) {
  const auto mine = device_.Download(Bytes(send, count));
  std::vector<std::byte> all(count * wires_.size());
  const NcclResult result = ToResult(wires_.AllGather(mine, all));
  EXPECT_TRUE(device_.CopyIn(all, Span<std::byte>(receive, all.size())).ok());
  return result == NcclResult::kSuccess ? call_result : result;
}

NcclResult FakeNccl::Send(const void* data, size_t count, int peer) {
  const NcclResult result = ToResult(wires_.Send(device_.Download(Bytes(data, count)), peer));
  return result == NcclResult::kSuccess ? call_result : result;
}

NcclResult FakeNccl::Receive(void* data, size_t count, int peer) {
  std::vector<std::byte> got(count);
  const NcclResult result = ToResult(wires_.Recv(got, peer));
  EXPECT_TRUE(device_.CopyIn(got, Span<std::byte>(data, count)).ok());
  return result == NcclResult::kSuccess ? call_result : result;
}

}  // namespace trireme
