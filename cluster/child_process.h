#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

// A program that runs beside this one and does not outlive it: when the thread that started it is
// gone, even by SIGKILL, the kernel sends it `death_signal`. It has a process group of its own, so
// that Ctrl-C at the terminal is not for it, no standard input, and writes to our standard error.
// Not thread safe.
class ChildProcess {
 public:
  // Runs arguments[0], which is looked for in PATH if it has no slash. NotFound or Internal says
  // why it does not run.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& arguments,
                                            int death_signal);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();  // kills its process group, if it still runs

  int pid() const { return pid_; }
  // A file descriptor that poll() finds readable when the process has ended.
  int end_fd() const { return end_fd_; }

  // Sends a signal to its process group.
  void Signal(int signal) const;

  // Waits for its end and says how it was: "exit code 1" or "signal 9 (Killed)". Once.
  std::string Wait();

 private:
  ChildProcess(int pid, int end_fd) : pid_(pid), end_fd_(end_fd) {}

  int pid_ = -1;  // -1: has been waited for
  int end_fd_ = -1;
};

}  // namespace trireme
