#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/backends/ucx.h"
#include "parallel/communicator.h"
#include "trireme/v1/rendezvous.pb.h"

namespace trireme {

// The ranks of a gang as one of them sees them, whoever brought them together.
struct GangWorld {
  std::unique_ptr<Communicator> ranks;
  std::vector<std::string> hosts;  // by rank
  int local_rank = 0;              // among the ranks of this host
  int local_size = 0;
};

// Joining a gang that forms through the coordinator.
struct JoinOptions {
  std::string coordinator;  // HOST:PORT
  std::chrono::milliseconds connect_timeout{30'000};
  std::string gang;
  std::optional<int> rank;  // unset: the coordinator's choice
  int64_t world_size = 1;
  std::vector<v1::Setting> settings;  // what every rank must have the same
  // An empty interface becomes the one that leads to the coordinator.
  UcxOptions network;
};

// The ranks of the MPI launcher that started this process. As MakeMpiCommunicator.
absl::StatusOr<GangWorld> JoinMpiWorld(int* argc, char*** argv);

// A process alone.
absl::StatusOr<GangWorld> SingleRankWorld();

// Waits, as long as it takes, until all ranks of the gang have joined, and connects to them.
// Collective. UNAVAILABLE: the coordinator or a rank is gone, so that joining again may succeed.
// FAILED_PRECONDITION: this rank and another contradict each other, and the message names both.
absl::StatusOr<GangWorld> JoinGang(const JoinOptions& options);

}  // namespace trireme
