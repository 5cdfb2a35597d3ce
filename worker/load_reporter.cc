#include "worker/load_reporter.h"

#include <chrono>
#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "trireme/v1/loading.grpc.pb.h"
#include "worker/coordinator_channel.h"

namespace trireme {
namespace {

constexpr std::chrono::seconds kInterval{1};
constexpr std::chrono::seconds kCallTimeout{2};

}  // namespace

LoadReporter::LoadReporter(const std::string& coordinator, v1::LoadingRank rank,
                           const LoadCount& count)
    : rank_(std::move(rank)), count_(count), thread_([this, coordinator] { Run(coordinator); }) {}

LoadReporter::~LoadReporter() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    if (call_ != nullptr) call_->TryCancel();
  }
  changed_.notify_all();
  thread_.join();
}

void LoadReporter::Run(const std::string& coordinator) {
  std::unique_ptr<v1::Loading::Stub> stub;
  uint64_t before = 0;
  auto last = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  while (!ended_) {
    const auto now = std::chrono::steady_clock::now();
    const std::chrono::duration<double> passed = now - std::exchange(last, now);
    rank_.set_bytes_total(count_.total);
    rank_.set_bytes_done(count_.done);
    const uint64_t recent = rank_.bytes_done() - std::exchange(before, rank_.bytes_done());
    rank_.set_bytes_per_s(passed.count() > 0 ? static_cast<double>(recent) / passed.count() : 0);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
    call_ = &context;
    lock.unlock();
    // A new connection after each failure: an old one tries more and more rarely, and once the
    // network is back all ranks are to be heard within seconds.
    if (stub == nullptr) stub = v1::Loading::NewStub(MakeCoordinatorChannel(coordinator));
    v1::LoadingReported answer;
    const grpc::Status status = stub->Report(&context, rank_, &answer);
    if (!status.ok()) stub.reset();
    if (!answer.lost().empty()) {
      LogError(absl::StrCat("stopping: ", answer.lost()));
      std::_Exit(1);
    }
    lock.lock();
    call_ = nullptr;
    changed_.wait_for(lock, kInterval, [this] { return ended_; });
  }
}

}  // namespace trireme
