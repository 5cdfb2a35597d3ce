#include "worker/serving_barrier.h"

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace trireme {

struct ServingBarrier::Entered {
  std::mutex mutex;
  std::condition_variable changed;
  bool passed = false;
  std::thread thread;
};

ServingBarrier::ServingBarrier(Communicator* ranks) : ranks_(ranks) {}

ServingBarrier::~ServingBarrier() {
  if (entered_ == nullptr || !entered_->thread.joinable()) return;
  // A rank that ends before the others have entered cannot wait for them.
  if (PassedBy(std::chrono::steady_clock::now())) {
    entered_->thread.join();
  } else {
    entered_->thread.detach();
  }
}

void ServingBarrier::Enter() {
  if (entered()) return;
  entered_ = std::make_shared<Entered>();
  if (ranks_ == nullptr || ranks_->size() == 1) {
    entered_->passed = true;
    return;
  }
  entered_->thread = std::thread([ranks = ranks_, entered = entered_] {
    if (const absl::Status status = ranks->Barrier(); !status.ok()) {
      LogError(absl::StrCat("the gang is gone before it serves: ", std::string(status.message())));
      std::_Exit(1);
    }
    const std::lock_guard lock(entered->mutex);
    entered->passed = true;
    entered->changed.notify_all();
  });
}

bool ServingBarrier::PassedBy(std::chrono::steady_clock::time_point deadline) const {
  std::unique_lock lock(entered_->mutex);
  return entered_->changed.wait_until(lock, deadline, [this] { return entered_->passed; });
}

void ServingBarrier::Leave() {
  if (!entered()) return;
  if (entered_->thread.joinable()) entered_->thread.join();
  entered_.reset();
}

}  // namespace trireme
