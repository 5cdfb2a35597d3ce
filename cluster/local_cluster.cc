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
constexpr std::chrono::milliseconds kPartTimeout{2'000};
constexpr std::chrono::milliseconds kStopTimeout{3'000};
// A gang that has served so long, if only idly, did not end of what it began with.
constexpr std::chrono::seconds kSteadyTime{1};
constexpr std::chrono::milliseconds kRestartPause{250};  // before the second restart in a row
constexpr std::chrono::milliseconds kRestartPauseMax{30'000};
constexpr int kRestartDoublings = 10;

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

void AwaitEnd(const ChildProcess& child, Clock::time_point deadline) {
  using std::chrono::milliseconds;
  pollfd end{.fd = child.end_fd(), .events = POLLIN, .revents = 0};
  const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
  poll(&end, 1, static_cast<int>(std::max<int64_t>(left, 0)));
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
  if (status.ok() && PollReady()) {
    status = absl::UnavailableError(
        absl::StrCat("a coordinator serves at ", address_, " already; choose another address"));
  }
  if (status.ok()) status = StartCoordinator();
  if (status.ok()) status = StartGang();
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

absl::Status LocalCluster::StartGang() {
  const int ranks = options_.tp * options_.pp;
  std::vector<std::string> arguments;
  if (ranks > 1) {
    // A gang of which a rank is lost has nothing to finish: the others need no second's notice.
    arguments = {"mpirun",
                 "--quiet",
                 "--oversubscribe",
                 "--bind-to",
                 "none",
                 "--mca",
                 "odls_base_sigkill_timeout",
                 "0",
                 "-np",
                 absl::StrCat(ranks)};
  }
  for (const std::string& argument :
       {BesideUs("trireme-worker"), std::string("--model"), options_.model,
        std::string("--coordinator"), address_, std::string("--tp"), absl::StrCat(options_.tp),
        std::string("--pp"), absl::StrCat(options_.pp),
        // Both end with us: no other coordinator comes.
        std::string("--reconnect-timeout-s"), std::string("0")}) {
    arguments.push_back(argument);
  }
  arguments.insert(arguments.end(), options_.worker_flags.begin(), options_.worker_flags.end());
  // mpirun ends its ranks when it is told to end, not when it is killed.
  absl::StatusOr<ChildProcess> started =
      ChildProcess::Start(arguments, ranks > 1 ? SIGTERM : SIGKILL);
  if (ranks > 1 && absl::IsNotFound(started.status())) {
    return absl::NotFoundError(
        "more than one worker needs mpirun; install openmpi-bin, or leave out --tp and --pp");
  }
  RETURN_IF_ERROR(started.status());
  gang_ = *std::move(started);
  return absl::OkStatus();
}

// Returns when asked to stop, or with what has failed.
absl::Status LocalCluster::Watch() {
  while (true) {
    std::array<pollfd, 3> events = {
        {{.fd = stop_fd_, .events = POLLIN, .revents = 0},
         {.fd = coordinator_->end_fd(), .events = POLLIN, .revents = 0},
         {.fd = gang_.has_value() ? gang_->end_fd() : -1, .events = POLLIN, .revents = 0}}};
    poll(events.data(), events.size(), serving_ ? -1 : kReadyPollMs);
    if (events[0].revents != 0) return absl::OkStatus();
    if (events[1].revents != 0) {
      return absl::UnavailableError(
          absl::StrCat("the coordinator has ended: ", coordinator_->Wait()));
    }
    if (events[2].revents != 0) RETURN_IF_ERROR(AfterGang());
    if (!gang_.has_value()) {
      if (Clock::now() >= restart_at_) RETURN_IF_ERROR(StartGang());
    } else if (!serving_ && PollReady()) {
      serving_ = true;
      served_at_ = Clock::now();
    }
  }
}

// Workers that end again without a token in between are started later and later.
absl::Status LocalCluster::AfterGang() {
  const std::string end = gang_->Wait();
  gang_.reset();
  {
    const std::lock_guard lock(mutex_);
    if (!ready_.has_value()) {
      return absl::UnavailableError(absl::StrCat("the workers could not start: ", end));
    }
  }
  const uint64_t tokens = TokensGenerated();
  if (tokens != tokens_before_ || (serving_ && Clock::now() - served_at_ > kSteadyTime)) {
    short_lives_ = 0;
  }
  tokens_before_ = tokens;
  serving_ = false;
  const std::chrono::milliseconds pause =
      short_lives_ == 0 ? std::chrono::milliseconds(0)
                        : std::min(kRestartPause * (1 << (short_lives_ - 1)), kRestartPauseMax);
  if (short_lives_ < kRestartDoublings) ++short_lives_;
  restart_at_ = Clock::now() + pause;
  std::cerr << "trireme: the workers have ended (" << end << "); starting them anew";
  if (pause.count() > 0) std::cerr << " in " << absl::FormatDuration(absl::FromChrono(pause));
  std::cerr << std::endl;
  return absl::OkStatus();
}

// Asks the coordinator, and publishes the first answer of a gang that serves.
bool LocalCluster::PollReady() {
  // After a refused connection, a channel waits 100 ms at least before it tries again.
  if (stub_ == nullptr) stub_ = v1::Inference::NewStub(ConnectTo(address_));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
  v1::GetModelResponse model;
  if (!stub_->GetModel(&context, {}, &model).ok()) {
    stub_ = nullptr;
    return false;
  }
  if (!coordinator_.has_value()) return true;
  if (!model.ready()) return false;
  {
    const std::lock_guard lock(mutex_);
    if (!ready_.has_value()) ready_ = model;
  }
  changed_.notify_all();
  return true;
}

uint64_t LocalCluster::TokensGenerated() const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
  v1::ListRanksResponse ranks;
  const grpc::Status status =
      v1::Cluster::NewStub(ConnectTo(address_))->ListRanks(&context, {}, &ranks);
  return status.ok() ? ranks.tokens_generated() : tokens_before_;
}

void LocalCluster::Stop() {
  stub_ = nullptr;  // the coordinator would wait for an idle connection
  if (coordinator_.has_value()) coordinator_->Signal(SIGTERM);
  if (gang_.has_value()) {
    // Workers that serve are told by the coordinator, and mpirun then ends sooner than by a signal.
    if (serving_) AwaitEnd(*gang_, Clock::now() + kPartTimeout);
    gang_->Signal(SIGTERM);
  }
  const auto deadline = Clock::now() + kStopTimeout;
  for (auto* child : {&gang_, &coordinator_}) {
    if (child->has_value()) AwaitEnd(**child, deadline);
    child->reset();  // kills what did not listen
  }
}

}  // namespace trireme
