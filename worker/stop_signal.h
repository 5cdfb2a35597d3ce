#pragma once

#include <functional>
#include <mutex>
#include <thread>

namespace trireme {

// SIGTERM: the first asks the rank to finish what is under way, the second ends the process at
// once; so does the first where there is nothing to finish. Thread safe.
class StopSignal {
 public:
  // Blocks SIGTERM in this thread and in all that it starts later: to be made before any other.
  StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;
  ~StopSignal();

  // What the first SIGTERM calls, in a thread of its own; it must not block. Empty: nothing to
  // finish. When this returns, what was set before is not running and will not be called.
  void OnStop(std::function<void()> finish);

 private:
  void Wait();

  std::mutex mutex_;
  std::function<void()> finish_;  // guarded by mutex_
  bool asked_ = false;            // guarded by mutex_
  bool over_ = false;             // guarded by mutex_
  std::thread thread_;            // last: it uses the others
};

// The kernel kills this process, even a stopped one, when the launcher that started it has gone.
void EndWithLauncher();

}  // namespace trireme
