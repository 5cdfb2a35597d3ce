// Ranks over UCX. A process has one UCX worker, which all of its communicators share: whoever waits
// makes the progress of all, so a posted message also leaves while its sender waits elsewhere.
//
// Messages are matched by tag: the group, the channel and the sender. Those of one pair stay in
// order, so a tag needs no number of the collective.

#include "parallel/backends/ucx.h"

#include <poll.h>
#include <sched.h>
#include <ucp/api/ucp.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <list>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "parallel/network_variables.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

// Waiting costs the CPU for so long, then the thread sleeps until UCX has an event for it, at most
// so long: another thread may have taken the event.
constexpr std::chrono::microseconds kSpin{50};
constexpr int kSleepMs = 2;
// How long an operation that has failed may take to let go of its buffer.
constexpr std::chrono::milliseconds kCancelTimeout{1'000};

enum class Channel : uint64_t { kHello, kSend, kPost, kGoodbye };

constexpr uint64_t kGroupMax = (uint64_t{1} << 24) - 1;

uint64_t MakeTag(uint64_t group, Channel channel, int sender) {
  return group << 40 | static_cast<uint64_t>(channel) << 32 | static_cast<uint32_t>(sender);
}

absl::Status UcsStatus(ucs_status_t status, std::string_view what) {
  if (status == UCS_OK) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("ucx: ", std::string(what), ": ", ucs_status_string(status)));
}

// A send or receive under way. UCX holds its address until it is done.
struct Operation {
  int peer = 0;  // in the world
  bool receives = false;
  void* request = nullptr;
  bool done = false;
  ucs_status_t status = UCS_OK;
  size_t received = 0;
  std::vector<std::byte> copy;  // what was posted
};

using Operations = std::list<Operation>;

struct Peer {
  ucp_ep_h endpoint = nullptr;
  ucs_status_t error = UCS_OK;
  bool left = false;  // has said goodbye: it sends nothing more
};

void OnSent(void* request, ucs_status_t status, void* user) {
  auto& operation = *static_cast<Operation*>(user);
  operation.status = status;
  operation.done = true;
  ucp_request_free(request);
}

void OnReceived(void* request, ucs_status_t status, const ucp_tag_recv_info_t* info, void* user) {
  if (status == UCS_OK) static_cast<Operation*>(user)->received = info->length;
  OnSent(request, status, user);
}

void OnPeerError(void* user, ucp_ep_h /*endpoint*/, ucs_status_t status) {
  static_cast<Peer*>(user)->error = status;
}

struct ContextCloser {
  void operator()(ucp_context* context) const { ucp_cleanup(context); }
};
struct WorkerCloser {
  void operator()(ucp_worker* worker) const { ucp_worker_destroy(worker); }
};
using ContextPtr = std::unique_ptr<ucp_context, ContextCloser>;
using WorkerPtr = std::unique_ptr<ucp_worker, WorkerCloser>;

// The connections of one process. Thread safe.
class UcxSession {
 public:
  UcxSession(UcxOptions options, ContextPtr context, WorkerPtr worker)
      : options_(std::move(options)), context_(std::move(context)), worker_(std::move(worker)) {}
  UcxSession(const UcxSession&) = delete;
  UcxSession& operator=(const UcxSession&) = delete;
  ~UcxSession() { Close(); }

  absl::Status Connect(int rank, std::span<const std::string> addresses);

  int rank() const { return rank_; }

  void Send(Operations& operations, std::span<const std::byte> data, int peer, uint64_t group,
            Channel channel);
  void Receive(Operations& operations, std::span<std::byte> data, int peer, uint64_t group,
               Channel channel);
  // Until all are done. UNAVAILABLE if a peer of one is gone or silent.
  absl::Status Wait(Operations& operations) { return Wait(operations, options_.wait_timeout); }
  // Sends a copy, and does not wait.
  absl::Status Post(std::span<const std::byte> data, int peer, uint64_t group);

  // A number for a group to be made, at least `least`; later ones are greater.
  uint64_t next_group() const { return next_group_; }
  void SetNextGroup(uint64_t next) { next_group_ = next; }

  // After an error the peers must not wait for this rank.
  absl::Status Fail(absl::Status status) {
    failed_ = true;
    return status;
  }

 private:
  absl::Status Wait(Operations& operations, std::chrono::milliseconds timeout);
  bool Progress(const Operations& operations);
  void Sleep();
  absl::Status PeerGone(const Operation& operation);
  absl::Status FirstError(const Operations& operations);
  absl::Status Check(const Operations& operations, bool too_late);
  void Abandon(Operations& operations);
  void ReapPosted();
  void SayGoodbye();
  void Close();

  const UcxOptions options_;
  const ContextPtr context_;
  WorkerPtr worker_;
  int event_fd_ = -1;
  int rank_ = 0;
  std::mutex mutex_;         // of all UCX calls, and what their callbacks write
  std::vector<Peer> peers_;  // never moves: UCX holds addresses
  Operations goodbyes_;      // one receive of each peer
  Operations posted_;
  Operations abandoned_;  // that UCX may still hold
  std::atomic<uint64_t> next_group_ = 1;
  std::atomic<bool> failed_ = false;
};

void UcxSession::Send(Operations& operations, std::span<const std::byte> data, int peer,
                      uint64_t group, Channel channel) {
  const std::lock_guard lock(mutex_);
  Operation& operation = operations.emplace_back();
  operation.peer = peer;
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  param.cb.send = OnSent;
  param.user_data = &operation;
  operation.request = ucp_tag_send_nbx(peers_[static_cast<size_t>(peer)].endpoint, data.data(),
                                       data.size(), MakeTag(group, channel, rank_), &param);
  if (UCS_PTR_IS_ERR(operation.request)) {
    operation.status = UCS_PTR_STATUS(operation.request);
    operation.done = true;
  }
}

void UcxSession::Receive(Operations& operations, std::span<std::byte> data, int peer,
                         uint64_t group, Channel channel) {
  const std::lock_guard lock(mutex_);
  Operation& operation = operations.emplace_back();
  operation.peer = peer;
  operation.receives = true;
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  param.cb.recv = OnReceived;
  param.user_data = &operation;
  operation.request = ucp_tag_recv_nbx(worker_.get(), data.data(), data.size(),
                                       MakeTag(group, channel, peer), ~uint64_t{0}, &param);
  if (UCS_PTR_IS_ERR(operation.request)) {
    operation.status = UCS_PTR_STATUS(operation.request);
    operation.done = true;
  }
}

absl::Status UcxSession::Post(std::span<const std::byte> data, int peer, uint64_t group) {
  Operations one;
  std::vector<std::byte> copy(data.begin(), data.end());
  Send(one, copy, peer, group, Channel::kPost);
  one.front().copy = std::move(copy);
  (void)Progress(one);
  const std::lock_guard lock(mutex_);
  const absl::Status status = FirstError(one);
  posted_.splice(posted_.end(), one);
  if (!status.ok()) failed_ = true;
  return status;
}

// Forgets the posted messages that are delivered. Needs mutex_.
void UcxSession::ReapPosted() {
  posted_.remove_if([](const Operation& operation) { return operation.done; });
}

// Lets UCX work until nothing is left to do; true if all of `operations` are done.
bool UcxSession::Progress(const Operations& operations) {
  const std::lock_guard lock(mutex_);
  while (ucp_worker_progress(worker_.get()) != 0) {
  }
  ReapPosted();
  auto peer = goodbyes_.begin();
  while (peer != goodbyes_.end()) {
    if (peer->done && peer->status == UCS_OK) peers_[static_cast<size_t>(peer->peer)].left = true;
    peer = peer->done ? goodbyes_.erase(peer) : std::next(peer);
  }
  return std::all_of(operations.begin(), operations.end(),
                     [](const auto& one) { return one.done; });
}

absl::Status UcxSession::PeerGone(const Operation& operation) {
  const Peer& peer = peers_[static_cast<size_t>(operation.peer)];
  const ucs_status_t status = operation.done ? operation.status : peer.error;
  return absl::UnavailableError(
      absl::StrCat("ucx: rank ", operation.peer, " is gone",
                   status == UCS_OK ? "" : absl::StrCat(" (", ucs_status_string(status), ")")));
}

// Of those done, and of those that never will be. Needs mutex_.
absl::Status UcxSession::FirstError(const Operations& operations) {
  for (const Operation& operation : operations) {
    const Peer& peer = peers_[static_cast<size_t>(operation.peer)];
    if (operation.done) {
      if (operation.status == UCS_ERR_MESSAGE_TRUNCATED) {
        return absl::InternalError(
            absl::StrCat("ucx: rank ", operation.peer, " sent more bytes than expected"));
      }
      if (operation.status != UCS_OK) return PeerGone(operation);
    } else if (peer.error != UCS_OK || peer.left) {
      return PeerGone(operation);
    }
  }
  return absl::OkStatus();
}

absl::Status UcxSession::Check(const Operations& operations, bool too_late) {
  const std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(FirstError(operations));
  if (!too_late) return absl::OkStatus();
  const auto silent = std::find_if(operations.begin(), operations.end(),
                                   [](const Operation& one) { return !one.done; });
  if (silent == operations.end()) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("ucx: rank ", silent->peer, " was silent for too long"));
}

void UcxSession::Sleep() {
  {
    const std::lock_guard lock(mutex_);
    if (ucp_worker_arm(worker_.get()) != UCS_OK) return;  // there is something to do already
  }
  pollfd event{.fd = event_fd_, .events = POLLIN, .revents = 0};
  poll(&event, 1, kSleepMs);
}

absl::Status UcxSession::Wait(Operations& operations, std::chrono::milliseconds timeout) {
  const auto start = Clock::now();
  while (true) {
    const bool done = Progress(operations);
    const auto waited = Clock::now() - start;
    const absl::Status status = Check(operations, waited > timeout);
    if (status.ok() && done) return status;
    if (!status.ok()) {
      Abandon(operations);
      return Fail(status);
    }
    if (waited < kSpin) {
      sched_yield();
    } else {
      Sleep();
    }
  }
}

// The caller's buffers must not be written once it has its error.
void UcxSession::Abandon(Operations& operations) {
  {
    const std::lock_guard lock(mutex_);
    for (Operation& operation : operations) {
      if (!operation.done) ucp_request_cancel(worker_.get(), operation.request);
    }
  }
  const auto deadline = Clock::now() + kCancelTimeout;
  const auto receiving = [&] {
    const std::lock_guard lock(mutex_);
    return std::any_of(operations.begin(), operations.end(),
                       [](const Operation& one) { return one.receives && !one.done; });
  };
  while (receiving() && Clock::now() < deadline) Progress(operations);
  const std::lock_guard lock(mutex_);
  abandoned_.splice(abandoned_.end(), operations);
}

absl::Status UcxSession::Connect(int rank, std::span<const std::string> addresses) {
  rank_ = rank;
  RETURN_IF_ERROR(UcsStatus(ucp_worker_get_efd(worker_.get(), &event_fd_), "ucp_worker_get_efd"));
  peers_.resize(addresses.size());
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (static_cast<int>(i) == rank) continue;
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                        UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.address = reinterpret_cast<const ucp_address_t*>(addresses[i].data());
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler = {OnPeerError, &peers_[i]};
    const ucs_status_t status = ucp_ep_create(worker_.get(), &params, &peers_[i].endpoint);
    if (status != UCS_OK) {
      return Fail(absl::UnavailableError(absl::StrCat(
          "ucx: rank ", rank, " cannot reach rank ", i, ": ", ucs_status_string(status),
          "; are the hosts connected by the same kind of network interface?")));
    }
  }
  // Connections are made at first use: all at once, here.
  Operations hellos;
  const auto peers = [&](auto body) {
    for (int peer = 0; peer < static_cast<int>(peers_.size()); ++peer) {
      if (peer != rank_) body(peer);
    }
  };
  peers([&](int peer) { Receive(goodbyes_, {}, peer, 0, Channel::kGoodbye); });
  peers([&](int peer) { Receive(hellos, {}, peer, 0, Channel::kHello); });
  peers([&](int peer) { Send(hellos, {}, peer, 0, Channel::kHello); });
  return Wait(hellos, options_.connect_timeout);
}

// Tells the peers that nothing more comes, and waits until they say so, too: closing a connection
// may destroy what is still on its way.
void UcxSession::SayGoodbye() {
  const auto deadline = Clock::now() + options_.close_timeout;
  Operations sent;
  for (const Operation& peer : goodbyes_) Send(sent, {}, peer.peer, 0, Channel::kGoodbye);
  const auto waiting = [&](const Operations& operations) {
    return std::any_of(operations.begin(), operations.end(), [&](const Operation& one) {
      return !one.done && peers_[static_cast<size_t>(one.peer)].error == UCS_OK;
    });
  };
  Progress(sent);
  while ((waiting(sent) || waiting(goodbyes_) || waiting(posted_)) && Clock::now() < deadline) {
    Sleep();
    Progress(sent);
  }
  abandoned_.splice(abandoned_.end(), sent);
}

void UcxSession::Close() {
  if (!failed_) SayGoodbye();
  const auto close = [&](ucp_ep_h endpoint) {
    ucp_request_param_t param{};
    if (failed_) {
      param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
      param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    }
    return ucp_ep_close_nbx(endpoint, &param);
  };
  std::vector<void*> closing;
  for (const Peer& peer : peers_) {
    if (peer.endpoint == nullptr) continue;
    void* request = close(peer.endpoint);
    if (UCS_PTR_IS_PTR(request)) closing.push_back(request);
  }
  const auto deadline = Clock::now() + kCancelTimeout;
  for (void* request : closing) {
    while (ucp_request_check_status(request) == UCS_INPROGRESS && Clock::now() < deadline) {
      ucp_worker_progress(worker_.get());
    }
    ucp_request_free(request);
  }
  for (Operation& operation : goodbyes_) {
    if (!operation.done) ucp_request_cancel(worker_.get(), operation.request);
  }
  while (ucp_worker_progress(worker_.get()) != 0) {
  }
  worker_.reset();  // before the operations whose callbacks it may call
}

class UcxCommunicator final : public Communicator {
 public:
  // `members`: the ranks of the world that form the group, in its order.
  UcxCommunicator(std::shared_ptr<UcxSession> session, uint64_t group, std::vector<int> members,
                  int rank)
      : session_(std::move(session)), group_(group), members_(std::move(members)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  std::string_view name() const override { return "ucx"; }

  absl::Status Send(std::span<const std::byte> data, int destination) override {
    RETURN_IF_ERROR(CheckPeer(destination));
    Operations operations;
    StartSend(operations, data, destination);
    return session_->Wait(operations);
  }

  absl::Status Recv(std::span<std::byte> data, int source) override {
    RETURN_IF_ERROR(CheckPeer(source));
    return Receive(data, source, Channel::kSend);
  }

  absl::Status SendRecv(std::span<const std::byte> send, std::span<std::byte> receive,
                        int peer) override {
    RETURN_IF_ERROR(CheckPeer(peer));
    return Exchange(send, peer, receive, peer);
  }

  absl::Status Post(std::span<const std::byte> data, int destination) override {
    RETURN_IF_ERROR(CheckPeer(destination));
    return session_->Post(data, World(destination), group_);
  }

  absl::Status Take(std::span<std::byte> data, int source) override {
    RETURN_IF_ERROR(CheckPeer(source));
    return Receive(data, source, Channel::kPost);
  }

  // Dissemination: after step s every rank has heard, directly or not, of the 2s ranks before it.
  absl::Status Barrier() override {
    for (int step = 1; step < size(); step *= 2) {
      RETURN_IF_ERROR(Exchange({}, (rank_ + step) % size(), {}, (rank_ - step + size()) % size()));
    }
    return absl::OkStatus();
  }

  // A binomial tree: in each round, every rank that has the data gives it to one that has not.
  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    if (root < 0 || root >= size()) return BadRank(root);
    const int place = (rank_ - root + size()) % size();
    const auto rank_at = [&](int other) { return (other + root) % size(); };
    for (int step = 1; step < size(); step *= 2) {
      if (place < step && place + step < size()) {
        RETURN_IF_ERROR(Send(data, rank_at(place + step)));
      } else if (place >= step && place < 2 * step) {
        RETURN_IF_ERROR(Recv(data, rank_at(place - step)));
      }
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    if (all.size() != mine.size() * static_cast<size_t>(size())) {
      return session_->Fail(absl::InvalidArgumentError(absl::StrCat(
          "AllGather: ", all.size(), " bytes for ", size(), " blocks of ", mine.size())));
    }
    const auto block = [&](int source) {
      return all.subspan(static_cast<size_t>(source) * mine.size(), mine.size());
    };
    if (!mine.empty()) std::memmove(block(rank_).data(), mine.data(), mine.size());
    // Around the ring: every rank passes on what it got last.
    const int next = (rank_ + 1) % size();
    const int previous = (rank_ + size() - 1) % size();
    for (int step = 0; step + 1 < size(); ++step) {
      const int sent = (rank_ - step + size()) % size();
      RETURN_IF_ERROR(Exchange(block(sent), next, block((sent + size() - 1) % size()), previous));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override;

 private:
  int World(int rank) const { return members_[static_cast<size_t>(rank)]; }

  absl::Status CheckPeer(int peer) {
    return peer < 0 || peer >= size() || peer == rank_ ? BadRank(peer) : absl::OkStatus();
  }

  absl::Status BadRank(int peer) {
    return session_->Fail(absl::InvalidArgumentError(
        absl::StrCat("rank ", rank_, " of ", size(), " cannot exchange data with rank ", peer)));
  }

  void StartSend(Operations& operations, std::span<const std::byte> data, int destination) {
    session_->Send(operations, data, World(destination), group_, Channel::kSend);
  }

  absl::Status CheckReceived(const Operation& operation, size_t expected, int source) {
    if (operation.received == expected) return absl::OkStatus();
    return session_->Fail(absl::InternalError(absl::StrCat("rank ", rank_, " expected ", expected,
                                                           " bytes from rank ", source,
                                                           ", which sent ", operation.received)));
  }

  absl::Status Receive(std::span<std::byte> data, int source, Channel channel) {
    Operations operations;
    session_->Receive(operations, data, World(source), group_, channel);
    RETURN_IF_ERROR(session_->Wait(operations));
    return CheckReceived(operations.front(), data.size(), source);
  }

  absl::Status Exchange(std::span<const std::byte> send, int destination,
                        std::span<std::byte> receive, int source) {
    Operations operations;
    session_->Receive(operations, receive, World(source), group_, Channel::kSend);
    StartSend(operations, send, destination);
    RETURN_IF_ERROR(session_->Wait(operations));
    return CheckReceived(operations.front(), receive.size(), source);
  }

  const std::shared_ptr<UcxSession> session_;
  const uint64_t group_;
  const std::vector<int> members_;
  const int rank_;
};

absl::StatusOr<std::unique_ptr<Communicator>> UcxCommunicator::Split(int color, int key) {
  struct Choice {
    uint64_t next_group;
    int color;
    int key;
  };
  const Choice mine = {session_->next_group(), color, key};
  std::vector<Choice> all(static_cast<size_t>(size()));
  RETURN_IF_ERROR(
      AllGather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all))));
  // A number that no two of these ranks have used together. Groups of different colors share it:
  // they have no rank in common.
  uint64_t group = 0;
  std::vector<std::pair<int, int>> order;  // (key, rank)
  for (int other = 0; other < size(); ++other) {
    const Choice& choice = all[static_cast<size_t>(other)];
    group = std::max(group, choice.next_group);
    if (choice.color == color) order.emplace_back(choice.key, other);
  }
  CHECK(group < kGroupMax);
  session_->SetNextGroup(group + 1);
  std::sort(order.begin(), order.end());
  std::vector<int> members;
  int rank = 0;
  for (const auto& [ignored, other] : order) {
    if (other == rank_) rank = static_cast<int>(members.size());
    members.push_back(World(other));
  }
  return std::make_unique<UcxCommunicator>(session_, group, std::move(members), rank);
}

class RealUcxPort final : public UcxPort {
 public:
  RealUcxPort(std::shared_ptr<UcxSession> session, std::string address, std::string description)
      : session_(std::move(session)),
        address_(std::move(address)),
        description_(std::move(description)) {}

  const std::string& address() const override { return address_; }
  std::string Description() const override { return description_; }

  absl::StatusOr<std::unique_ptr<Communicator>> Connect(
      int rank, std::span<const std::string> addresses) override {
    CHECK(session_ != nullptr && rank >= 0 && static_cast<size_t>(rank) < addresses.size());
    const std::shared_ptr<UcxSession> session = std::exchange(session_, nullptr);
    RETURN_IF_ERROR(session->Connect(rank, addresses));
    std::vector<int> members(addresses.size());
    for (size_t i = 0; i < members.size(); ++i) members[i] = static_cast<int>(i);
    return std::make_unique<UcxCommunicator>(session, 0, std::move(members), rank);
  }

 private:
  std::shared_ptr<UcxSession> session_;
  const std::string address_;
  const std::string description_;
};

// What UCX is told of the network, and how that reads in the log.
struct UcxNetwork {
  std::string devices;     // UCX's NET_DEVICES; empty: its choice
  std::string transports;  // UCX's TLS; empty: its choice
  std::string description;
};

absl::StatusOr<UcxNetwork> ChooseUcxNetwork(const UcxOptions& options) {
  ASSIGN_OR_RETURN(const NetworkChoice choice,
                   ChooseNetwork(options.net_interface, options.require_rdma));
  UcxNetwork network;
  network.description = DescribeNetwork(choice);
  if (options.require_rdma) network.transports = "ib,self";
  if (options.require_rdma || choice.asked) network.devices = absl::StrJoin(choice.rdma_ports, ",");
  if (!options.require_rdma && !choice.interface.empty()) {
    network.devices =
        absl::StrCat(choice.interface, network.devices.empty() ? "" : ",", network.devices);
  }
  return network;
}

absl::StatusOr<ContextPtr> MakeContext(const UcxNetwork& network) {
  ucp_config_t* config = nullptr;
  RETURN_IF_ERROR(UcsStatus(ucp_config_read(nullptr, nullptr, &config), "ucp_config_read"));
  const absl::Cleanup release = [config] { ucp_config_release(config); };
  const auto set = [config](const char* name, const std::string& value) {
    if (value.empty()) return absl::OkStatus();
    return UcsStatus(ucp_config_modify(config, name, value.c_str()),
                     absl::StrCat("setting ", name, " to ", value));
  };
  RETURN_IF_ERROR(set("NET_DEVICES", network.devices));
  RETURN_IF_ERROR(set("TLS", network.transports));
  // Finds peers that have ended without a word; sockets close with their process.
  RETURN_IF_ERROR(set("KEEPALIVE_INTERVAL", "1s"));
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_TAG | UCP_FEATURE_WAKEUP;
  ucp_context_h context = nullptr;
  RETURN_IF_ERROR(UcsStatus(ucp_init(&params, config, &context), "ucp_init"));
  return ContextPtr(context);
}

}  // namespace

absl::StatusOr<std::unique_ptr<UcxPort>> OpenUcxPort(const UcxOptions& options) {
  ASSIGN_OR_RETURN(const UcxNetwork network, ChooseUcxNetwork(options));
  ASSIGN_OR_RETURN(ContextPtr context, MakeContext(network));
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucp_worker_h raw = nullptr;
  RETURN_IF_ERROR(UcsStatus(ucp_worker_create(context.get(), &params, &raw), "ucp_worker_create"));
  WorkerPtr worker(raw);
  ucp_address_t* address = nullptr;
  size_t length = 0;
  RETURN_IF_ERROR(
      UcsStatus(ucp_worker_get_address(raw, &address, &length), "ucp_worker_get_address"));
  std::string bytes(reinterpret_cast<const char*>(address), length);
  ucp_worker_release_address(raw, address);
  auto session = std::make_shared<UcxSession>(options, std::move(context), std::move(worker));
  return std::make_unique<RealUcxPort>(std::move(session), std::move(bytes), network.description);
}

}  // namespace trireme
