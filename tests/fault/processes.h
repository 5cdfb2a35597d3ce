#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace trireme::fault {

// The trireme-worker processes of this machine whose --coordinator is `server`, in the order of
// their ids; also those that load or wait.
std::vector<pid_t> FindWorkers(const std::string& server);

// Neither gone nor a zombie.
bool IsAlive(pid_t pid);

// What a process holds; nothing if it is gone.
struct Holdings {
  int64_t resident_bytes = 0;
  int64_t file_descriptors = 0;
};
std::optional<Holdings> HoldingsOf(pid_t pid);

}  // namespace trireme::fault
