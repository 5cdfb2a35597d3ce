// Collectives by NCCL, on communicators that never block: every call is followed until NCCL has
// enqueued it, with a deadline. A thread that NCCL blocked could not be freed when a peer is lost.

#include "parallel/backends/nccl.h"

#include <array>
#include <cstdint>
#include <future>
#include <limits>
#include <span>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kAdvice =
    "; start every rank with NCCL_DEBUG=INFO for NCCL's own account, and check that "
    "NCCL_SOCKET_IFNAME names the interface that leads to the other hosts and NCCL_IB_HCA the "
    "InfiniBand adapters (NCCL_IB_DISABLE=1 to do without)";

// Text in messages between ranks.
template <size_t kSize>
using FixedText = std::array<char, kSize>;

template <size_t kSize>
void Assign(FixedText<kSize>& to, std::string_view text) {
  to.fill('\0');
  text.copy(to.data(), kSize - 1);
}

template <size_t kSize>
std::string ToString(const FixedText<kSize>& text) {
  return text.data();
}

// What ranks tell each other before NCCL connects them.
struct Hello {
  int32_t version = 0;
  NcclUniqueId id;  // rank 0's counts
  FixedText<64> host{};
  FixedText<64> machine_id{};
  FixedText<32> pci_bus_id{};
};

struct Outcome {
  int32_t code = 0;
  FixedText<508> message{};
};

template <typename T>
absl::StatusOr<std::vector<T>> Gather(const T& mine, Communicator& host) {
  std::vector<T> all(host.size());
  RETURN_IF_ERROR(
      host.AllGather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all))));
  return all;
}

bool IsTimeout(absl::StatusCode code) { return code == absl::StatusCode::kDeadlineExceeded; }

// OK if all ranks' `mine` are. Otherwise every rank gets an error: its own, unless it only knows
// that time ran out and a peer knows why.
absl::Status Agree(const absl::Status& mine, Communicator& host) {
  Outcome outcome{.code = static_cast<int32_t>(mine.code())};
  Assign(outcome.message, std::string(mine.message()));
  const absl::StatusOr<std::vector<Outcome>> all = Gather(outcome, host);
  if (!mine.ok() && !IsTimeout(mine.code())) return mine;
  RETURN_IF_ERROR(all.status());
  absl::Status first = mine;
  for (const Outcome& other : *all) {
    const auto code = static_cast<absl::StatusCode>(other.code);
    if (code == absl::StatusCode::kOk) continue;
    if (first.ok() || !IsTimeout(code)) first = absl::Status(code, ToString(other.message));
    if (!IsTimeout(code)) break;
  }
  return first;
}

std::string VersionText(int version) {  // NCCL 2.9 and later
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

std::string RankText(int rank, const Hello& hello) {
  return absl::StrCat("rank ", rank, " on ", ToString(hello.host));
}

// What NCCL would fail on later, or hang, with less to go by.
absl::Status CheckPeers(const std::vector<Hello>& all) {
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank].version == all[0].version) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("nccl: ", RankText(0, all[0]), " has NCCL ", VersionText(all[0].version), ", ",
                     RankText(rank, all[rank]), " has ", VersionText(all[rank].version),
                     "; install the same NCCL on every host"));
  }
  for (size_t rank = 0; rank < all.size(); ++rank) {
    for (size_t before = 0; before < rank; ++before) {
      if (all[rank].machine_id != all[before].machine_id ||
          all[rank].pci_bus_id != all[before].pci_bus_id) {
        continue;
      }
      return absl::InvalidArgumentError(absl::StrCat(
          "nccl: ", RankText(before, all[before]), " and ", RankText(rank, all[rank]),
          " both use the GPU ", ToString(all[rank].pci_bus_id),
          ", which NCCL refuses; give each rank a GPU of its own, or exchange data through host "
          "memory"));
    }
  }
  return absl::OkStatus();
}

class NcclCommunicator final : public DeviceCommunicator {
 public:
  NcclCommunicator(NcclApi api, const NcclPlace& place, NcclOptions options, int rank, int size)
      : api_(std::move(api)),
        place_(place),
        options_(std::move(options)),
        rank_(rank),
        size_(size) {}
  ~NcclCommunicator() override { Close(); }

  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  // Forms the group. DEADLINE_EXCEEDED if the peers did not come in time.
  absl::Status Connect(const NcclUniqueId& id) {
    const NcclResult started = api_.comm_init(&comm_, size_, id, rank_);
    if (started != NcclResult::kSuccess && started != NcclResult::kInProgress) {
      return Fail(absl::StatusCode::kUnavailable, "connecting the ranks", Reason(started));
    }
    return Settle("connecting the ranks", absl::StatusCode::kDeadlineExceeded);
  }

  // Every later call returns `error`. Ends what this rank has on the device.
  absl::Status Break(absl::Status error) {
    broken_ = std::move(error);
    Abort();
    return broken_;
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view name() const override { return "nccl"; }
  bool capturable() const override { return true; }

  absl::Status AllReduceSum(std::span<float> data) override {
    return Enqueue("AllReduceSum", data.size_bytes(), [&] {
      return api_.all_reduce(data.data(), data.data(), data.size(), NcclDataType::kFloat32,
                             NcclReduction::kSum, comm_, place_.stream);
    });
  }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (broken_.ok() && all.size() != mine.size() * static_cast<size_t>(size_)) {
      return Fail(absl::StatusCode::kInvalidArgument, LastCall(),
                  absl::StrCat("AllGather: ", all.size(), " bytes for ", size_, " blocks of ",
                               mine.size()));
    }
    return Enqueue("AllGather", mine.size(), [&] {
      return api_.all_gather(mine.data(), all.data(), mine.size(), NcclDataType::kUint8, comm_,
                             place_.stream);
    });
  }

  absl::Status Send(std::span<const std::byte> data, int destination) override {
    RETURN_IF_ERROR(CheckPeer(destination));
    return Enqueue(absl::StrCat("Send to rank ", destination), data.size(), [&] {
      return api_.send(data.data(), data.size(), NcclDataType::kUint8, destination, comm_,
                       place_.stream);
    });
  }

  absl::Status Recv(std::span<std::byte> data, int source) override {
    RETURN_IF_ERROR(CheckPeer(source));
    return Enqueue(absl::StrCat("Recv from rank ", source), data.size(), [&] {
      return api_.receive(data.data(), data.size(), NcclDataType::kUint8, source, comm_,
                          place_.stream);
    });
  }

  absl::Status Check() override {
    RETURN_IF_ERROR(broken_);
    const NcclResult state = State();
    if (state == NcclResult::kSuccess || state == NcclResult::kInProgress) return absl::OkStatus();
    return Fail(absl::StatusCode::kUnavailable, LastCall(), Reason(state));
  }

  absl::Status Wait(const std::function<absl::StatusOr<bool>()>& done) override {
    RETURN_IF_ERROR(broken_);
    // No sleep: it would be felt in every step.
    Poll poll(options_, options_.work_timeout, std::numeric_limits<int64_t>::max());
    while (true) {
      // An error of the device ends this rank's part too: the peers must not wait for it.
      const absl::StatusOr<bool> is_done = done();
      if (!is_done.ok()) return Break(is_done.status());
      RETURN_IF_ERROR(Check());
      if (*is_done) return absl::OkStatus();
      if (!poll.Again()) {
        return Fail(absl::StatusCode::kUnavailable, LastCall(),
                    absl::StrCat("the step was not done after ", options_.work_timeout.count(),
                                 " ms: a peer is lost, or its calls are not those of this rank"));
      }
    }
  }

 private:
  // Paces a loop that polls: at first as fast as it can, since NCCL enqueues within microseconds.
  class Poll {
   public:
    Poll(const NcclOptions& options, std::chrono::milliseconds timeout, int64_t spins = 1000)
        : options_(options), deadline_(options.now() + timeout), spins_(spins) {}
    // False if time is up.
    bool Again() {
      if (options_.now() >= deadline_) return false;
      if (spins_-- > 0) {
        std::this_thread::yield();
      } else {
        options_.sleep(std::chrono::microseconds(100));
      }
      return true;
    }

   private:
    const NcclOptions& options_;
    const Clock::time_point deadline_;
    int64_t spins_;
  };

  template <typename Call>
  absl::Status Enqueue(std::string call, size_t bytes, Call enqueue) {
    RETURN_IF_ERROR(broken_);
    last_call_ = std::move(call);
    last_bytes_ = bytes;
    ++sequence_;
    if (bytes == 0) return absl::OkStatus();
    const NcclResult result = enqueue();
    if (result == NcclResult::kSuccess) return absl::OkStatus();
    if (result == NcclResult::kInProgress) {
      return Settle(LastCall(), absl::StatusCode::kUnavailable);
    }
    return Fail(absl::StatusCode::kUnavailable, LastCall(), Reason(result));
  }

  // Follows what NCCL is doing on behalf of `what` until it has ended; `late` if it does not.
  absl::Status Settle(const std::string& what, absl::StatusCode late) {
    Poll poll(options_, options_.connect_timeout);
    while (true) {
      const NcclResult state = State();
      if (state == NcclResult::kSuccess) return absl::OkStatus();
      if (state != NcclResult::kInProgress) {
        return Fail(absl::StatusCode::kUnavailable, what, Reason(state));
      }
      if (!poll.Again()) {
        return Fail(late, what,
                    absl::StrCat("no answer from the peers after ",
                                 options_.connect_timeout.count(), " ms"));
      }
    }
  }

  NcclResult State() {
    NcclResult state = NcclResult::kSuccess;
    const NcclResult asked = api_.comm_get_async_error(comm_, &state);
    return asked == NcclResult::kSuccess ? state : asked;
  }

  absl::Status CheckPeer(int peer) {
    RETURN_IF_ERROR(broken_);
    if (peer >= 0 && peer < size_ && peer != rank_) return absl::OkStatus();
    return Fail(absl::StatusCode::kInvalidArgument, LastCall(),
                absl::StrCat("cannot exchange data with rank ", peer));
  }

  std::string LastCall() const {
    if (sequence_ == 0) return "before its first call";
    return absl::StrCat("after call ", sequence_, ", ", last_call_, " of ", last_bytes_, " bytes");
  }

  std::string Reason(NcclResult result) const {
    const std::string detail = api_.get_last_error(comm_);
    return absl::StrCat(api_.get_error_string(result), detail.empty() ? "" : ": ", detail);
  }

  absl::Status Fail(absl::StatusCode code, const std::string& where, const std::string& reason) {
    const bool ours = code == absl::StatusCode::kInvalidArgument;
    return Break(absl::Status(
        code, absl::StrCat("nccl: rank ", rank_, " of ", size_, " on ", place_.host, ", ", where,
                           ": ", reason, ours ? std::string() : std::string(kAdvice))));
  }

  // On a thread of its own: ncclCommAbort ends what runs on the device first, but then waits until
  // the graphs that hold the communicator's calls are gone, and they are the caller's.
  void Abort() {
    if (comm_ == nullptr) return;
    std::promise<void> done;
    aborted_ = done.get_future();
    abort_thread_ = std::thread([abort = api_.comm_abort, comm = std::exchange(comm_, nullptr),
                                 done = std::move(done)]() mutable {
      abort(comm);
      done.set_value();
    });
  }

  // Waits for what the peers still expect of this rank, unless it is broken. In bounded time: at
  // worst the thread that aborts stays behind.
  void Close() {
    if (comm_ != nullptr) {
      NcclResult state = api_.comm_finalize(comm_);
      Poll poll(options_, options_.close_timeout);
      while (state == NcclResult::kInProgress && poll.Again()) state = State();
      if (state == NcclResult::kSuccess) {
        api_.comm_destroy(comm_);
        return;
      }
      Abort();
    }
    if (!abort_thread_.joinable()) return;
    Poll poll(options_, options_.close_timeout);
    const auto is_done = [&] {
      return aborted_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    };
    while (!is_done() && poll.Again()) continue;
    if (is_done()) {
      abort_thread_.join();
    } else {
      abort_thread_.detach();
    }
  }

  const NcclApi api_;
  const NcclPlace place_;
  const NcclOptions options_;
  const int rank_;
  const int size_;
  NcclComm comm_ = nullptr;  // null once it is being aborted
  absl::Status broken_;      // the first error
  std::thread abort_thread_;
  std::future<void> aborted_;
  // The last call, for messages.
  int64_t sequence_ = 0;
  std::string last_call_;
  size_t last_bytes_ = 0;
};

// Asks NCCL for its version and, on rank 0, for the group's name.
absl::Status FillHello(const NcclApi& api, const NcclPlace& place, int rank, Hello& hello) {
  Assign(hello.host, place.host);
  Assign(hello.machine_id, place.machine_id);
  Assign(hello.pci_bus_id, place.pci_bus_id);
  NcclResult result = api.get_version(&hello.version);
  if (result == NcclResult::kSuccess && rank == 0) result = api.get_unique_id(&hello.id);
  if (result == NcclResult::kSuccess) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("nccl: rank ", rank, " on ", place.host,
                                             ", starting NCCL: ", api.get_error_string(result), " ",
                                             api.get_last_error(nullptr), std::string(kAdvice)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceCommunicator>> MakeNcclCommunicator(NcclApi api,
                                                                         const NcclPlace& place,
                                                                         NcclOptions options,
                                                                         Communicator& host) {
  if (!options.now) options.now = [] { return Clock::now(); };
  if (!options.sleep) options.sleep = [](auto time) { std::this_thread::sleep_for(time); };
  Hello mine;
  RETURN_IF_ERROR(Agree(FillHello(api, place, host.rank(), mine), host));
  ASSIGN_OR_RETURN(const std::vector<Hello> all, Gather(mine, host));
  RETURN_IF_ERROR(CheckPeers(all));
  auto communicator = std::make_unique<NcclCommunicator>(std::move(api), place, std::move(options),
                                                         host.rank(), host.size());
  absl::Status connected = Agree(communicator->Connect(all[0].id), host);
  if (IsTimeout(connected.code())) connected = absl::UnavailableError(connected.message());
  if (!connected.ok()) return communicator->Break(connected);
  return communicator;
}

}  // namespace trireme
