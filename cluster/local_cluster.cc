#include "cluster/local_cluster.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "cluster/client.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kReadyPollMs = 5;
constexpr int kStuckPollMs = 500;
constexpr std::chrono::seconds kAnswerTimeout{1};
constexpr std::chrono::milliseconds kPartTimeout{2'000};
constexpr std::chrono::milliseconds kStopTimeout{3'000};
// A port that nobody has now; the kernel gives the same one again only after many others.
std::string FreeLoopbackAddress() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  const bool ok = bind(listener, generic, size) == 0 && getsockname(listener, generic, &size) == 0;
  close(listener);
  return ok ? absl::StrCat("127.0.0.1:", ntohs(address.sin_port)) : "";
}

// The path of a program beside this one; otherwise PATH is searched.
std::string BesideUs(const std::string& program) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  const auto path = self.parent_path() / program;
  return !error && std::filesystem::exists(path, error) ? path.string() : program;
}

}  // namespace

LocalCluster::LocalCluster(const LocalClusterOptions& options, FailureHandler on_failure)
    : options_(options),
      on_failure_(std::move(on_failure)),
      address_(options.address.empty() ? FreeLoopbackAddress() : options.address),
      stop_fd_(eventfd(0, EFD_CLOEXEC)),
      supervisor_([this] { Supervise(); }) {}

LocalCluster::~LocalCluster() {
  const uint64_t one = 1;
  // An eventfd takes a first write always.
  if (write(stop_fd_, &one, sizeof(one)) != sizeof(one)) std::abort();
  supervisor_.join();
  close(stop_fd_);
}

absl::StatusOr<v1::GetModelResponse> LocalCluster::AwaitReady() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ready_.has_value(); });
  return *ready_;
}

// The thread that starts every child: they are told when it ends.
void LocalCluster::Supervise() {
  // Signals are for the main thread, and for what it makes of them.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  absl::Status status;
  if (address_.empty()) status = absl::UnavailableError("no port of 127.0.0.1 is free");
  // Nobody serves at an address that was free a moment ago.
  if (status.ok() && !options_.address.empty() && ListRanks().has_value()) {
    status = absl::UnavailableError(
        absl::StrCat("a coordinator serves at ", address_, " already; choose another address"));
  }
  // The workers take longer to start, and try to connect until the coordinator listens.
  if (status.ok()) status = StartGangs();
  if (status.ok()) status = StartCoordinator();
  if (status.ok()) status = Watch();
  Stop();
  if (status.ok()) return;
  bool served = false;
  {
    const std::lock_guard lock(mutex_);
    served = ready_.has_value();
    if (!served) ready_ = status;
  }
  changed_.notify_all();
  if (served && on_failure_) on_failure_(status);
}

absl::Status LocalCluster::StartCoordinator() {
  std::vector<std::string> arguments = {BesideUs("trireme-coordinator"), "--model", options_.model,
                                        "--grpc", address_};
  arguments.insert(arguments.end(), options_.coordinator_flags.begin(),
                   options_.coordinator_flags.end());
  ASSIGN_OR_RETURN(coordinator_, ChildProcess::Start(arguments, SIGKILL));
  return absl::OkStatus();
}

absl::Status LocalCluster::StartGangs() {
  std::vector<std::string> worker = {BesideUs("trireme-worker"), "--model", options_.model,
                                     "--coordinator", address_, "--tp", absl::StrCat(options_.tp),
                                     "--pp", absl::StrCat(options_.pp),
                                     // Both end with us: no other coordinator comes.
                                     "--reconnect-timeout-s", "0"};
  worker.insert(worker.end(), options_.worker_flags.begin(), options_.worker_flags.end());
  for (int i = 0; i < options_.replicas; ++i) {
    RETURN_IF_ERROR(gangs_.emplace_back(worker, options_.tp * options_.pp).Start());
  }
  return absl::OkStatus();
}

// Returns when asked to stop, or with what has failed.
absl::Status LocalCluster::Watch() {
  while (true) {
    std::vector<pollfd> events = {{.fd = stop_fd_, .events = POLLIN, .revents = 0},
                                  {.fd = coordinator_->end_fd(), .events = POLLIN, .revents = 0}};
    for (const LocalGang& gang : gangs_) {
      events.push_back({.fd = gang.end_fd(), .events = POLLIN, .revents = 0});
    }
    poll(events.data(), events.size(), AllServe() ? kStuckPollMs : kReadyPollMs);
    if (events[0].revents != 0) return absl::OkStatus();
    if (events[1].revents != 0) {
      return absl::UnavailableError(
          absl::StrCat("the coordinator has ended: ", coordinator_->Wait()));
    }
    for (size_t i = 0; i < gangs_.size(); ++i) {
      LocalGang& gang = gangs_[i];
      if (events[2 + i].revents != 0) RETURN_IF_ERROR(AfterGang(gang));
      if (gang.KillIfStuck(Clock::now())) {
        std::cerr << "trireme: mpirun has lost a worker and does not end; killed" << std::endl;
      }
      if (!gang.running() && Clock::now() >= gang.restart_at()) RETURN_IF_ERROR(gang.Start());
    }
    if (!AllServe()) SeeWhoServes();
  }
}

bool LocalCluster::AllServe() const {
  return std::all_of(gangs_.begin(), gangs_.end(), [](const auto& gang) { return gang.serving(); });
}

absl::Status LocalCluster::AfterGang(LocalGang& gang) {
  // With others, tokens say nothing of this one.
  const auto ranks = gangs_.size() == 1 ? ListRanks() : std::nullopt;
  const uint64_t tokens = ranks.has_value() ? ranks->tokens_generated() : tokens_before_;
  const auto [how, pause] =
      gang.Wait(/*worked=*/std::exchange(tokens_before_, tokens) != tokens, Clock::now());
  {
    const std::lock_guard lock(mutex_);
    if (!ready_.has_value()) {
      return absl::UnavailableError(absl::StrCat("the workers could not start: ", how));
    }
  }
  std::cerr << "trireme: the workers have ended (" << how << "); starting them anew";
  if (pause.count() > 0) std::cerr << " in " << absl::FormatDuration(absl::FromChrono(pause));
  std::cerr << std::endl;
  return absl::OkStatus();
}

// Publishes the model when all serve for the first time.
void LocalCluster::SeeWhoServes() {
  const auto waits = [](const LocalGang& gang) { return gang.running() && !gang.serving(); };
  if (std::none_of(gangs_.begin(), gangs_.end(), waits)) return;
  const std::optional<v1::ListRanksResponse> ranks = ListRanks();
  if (!ranks.has_value()) return;
  for (const v1::Gang& serves : ranks->gangs()) {
    for (LocalGang& gang : gangs_) {
      const auto pid = static_cast<pid_t>(serves.ranks(0).pid());
      if (!gang.serving() && gang.Has(pid)) gang.Serves(Clock::now());
    }
  }
  if (!AllServe()) return;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kAnswerTimeout);
  v1::GetModelResponse model;
  if (!v1::Inference::NewStub(channel_)->GetModel(&context, {}, &model).ok()) return;
  {
    const std::lock_guard lock(mutex_);
    if (!ready_.has_value()) ready_ = model;
  }
  changed_.notify_all();
}

std::optional<v1::ListRanksResponse> LocalCluster::ListRanks() {
  // After a refused connection, a channel waits 100 ms at least before it tries again.
  if (channel_ == nullptr) channel_ = ConnectTo(address_);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kAnswerTimeout);
  v1::ListRanksResponse ranks;
  if (v1::Cluster::NewStub(channel_)->ListRanks(&context, {}, &ranks).ok()) return ranks;
  channel_ = nullptr;
  return std::nullopt;
}

void LocalCluster::Stop() {
  channel_ = nullptr;  // the coordinator would wait for an idle connection
  if (coordinator_.has_value()) coordinator_->Signal(SIGTERM);
  const auto told = Clock::now() + kPartTimeout;
  for (const LocalGang& gang : gangs_) gang.Stop(told);
  const auto deadline = Clock::now() + kStopTimeout;
  for (LocalGang& gang : gangs_) gang.End(deadline);
  if (coordinator_.has_value()) AwaitEnd(*coordinator_, deadline);
  coordinator_.reset();  // kills it if it did not listen
}

}  // namespace trireme
