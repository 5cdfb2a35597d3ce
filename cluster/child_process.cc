#include "cluster/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

// In the child, between fork and exec, where only async-signal-safe calls are allowed. Returns only
// if it fails, with errno.
void Become(char* const* arguments, int death_signal, pid_t parent) {
  setpgid(0, 0);
  if (prctl(PR_SET_PDEATHSIG, death_signal) != 0) return;
  if (getppid() != parent) _exit(1);  // it died before we asked to be told
  // Blocked and ignored signals would be inherited.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDONLY);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0) return;
  if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return;
  execvp(arguments[0], arguments);
}

absl::Status StartError(const std::string& program, int error) {
  const std::string text = absl::StrCat("cannot start ", program, ": ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(text) : absl::InternalError(text);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& arguments,
                                                 int death_signal) {
  std::vector<char*> raw;
  for (const std::string& argument : arguments) raw.push_back(const_cast<char*>(argument.c_str()));
  raw.push_back(nullptr);
  // Closed by a successful exec; otherwise it carries errno.
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return StartError(arguments[0], errno);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    Become(raw.data(), death_signal, parent);
    const int error = errno;
    _exit(write(report[1], &error, sizeof(error)) == sizeof(error) ? 127 : 126);
  }
  const int fork_error = errno;
  close(report[1]);
  int error = 0;
  const bool failed = pid < 0 || read(report[0], &error, sizeof(error)) == sizeof(error);
  close(report[0]);
  if (pid < 0) return StartError(arguments[0], fork_error);
  if (failed) {
    waitpid(pid, nullptr, 0);
    return StartError(arguments[0], error);
  }
  // Debian 12's <sys/pidfd.h> lacks extern "C".
  ChildProcess child(pid, static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (child.end_fd_ < 0) return StartError(arguments[0], errno);
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), end_fd_(std::exchange(other.end_fd_, -1)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(end_fd_, other.end_fd_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0) {
    Signal(SIGKILL);
    Wait();
  }
  if (end_fd_ >= 0) close(end_fd_);
}

void ChildProcess::Signal(int signal) const {
  if (pid_ > 0) kill(-pid_, signal);
}

std::string ChildProcess::Wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  // What it may have left behind in its group has lost its purpose.
  kill(-pid_, SIGKILL);
  pid_ = -1;
  if (WIFSIGNALED(status)) {
    return absl::StrCat("signal ", WTERMSIG(status), " (", strsignal(WTERMSIG(status)), ")");
  }
  return absl::StrCat("exit code ", WEXITSTATUS(status));
}

}  // namespace trireme
