#include "tests/fault/processes.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace trireme::fault {
namespace {

namespace fs = std::filesystem;

std::string Read(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();  // empty if the process has gone
  return text.str();
}

bool IsWorkerOf(pid_t pid, const std::string& server) {
  const std::vector<std::string> words =
      absl::StrSplit(Read(absl::StrCat("/proc/", pid, "/cmdline")), '\0');
  if (fs::path(words.front()).filename() != "trireme-worker") return false;
  const auto flag = std::find(words.begin(), words.end(), "--coordinator");
  return flag != words.end() && std::next(flag) != words.end() && *std::next(flag) == server;
}

}  // namespace

std::vector<pid_t> FindWorkers(const std::string& server) {
  std::vector<pid_t> workers;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    if (IsWorkerOf(pid, server) && IsAlive(pid)) workers.push_back(pid);
  }
  std::sort(workers.begin(), workers.end());
  return workers;
}

bool IsAlive(pid_t pid) {
  // "PID (name) STATE ..."
  const std::string stat = Read(absl::StrCat("/proc/", pid, "/stat"));
  const size_t name_end = stat.rfind(')');
  return name_end != std::string::npos && name_end + 2 < stat.size() && stat[name_end + 2] != 'Z' &&
         stat[name_end + 2] != 'X';
}

std::optional<Holdings> HoldingsOf(pid_t pid) {
  const std::vector<std::string> pages =
      absl::StrSplit(Read(absl::StrCat("/proc/", pid, "/statm")), ' ');
  Holdings holdings;
  if (pages.size() < 2 || !absl::SimpleAtoi(pages[1], &holdings.resident_bytes)) return {};
  holdings.resident_bytes *= sysconf(_SC_PAGESIZE);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), error)) {
    holdings.file_descriptors += entry.path().empty() ? 0 : 1;
  }
  return holdings;
}

}  // namespace trireme::fault
