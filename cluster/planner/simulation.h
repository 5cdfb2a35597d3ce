#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "cluster/planner/simulated_replica.h"

namespace trireme {

// A request of a trace. Seconds are since the start.
struct TraceRequest {
  double arrival_s = 0;
  int64_t prompt_tokens = 1;
  int64_t output_tokens = 1;

  bool operator==(const TraceRequest&) const = default;
};

struct SimulationOptions {
  int replicas = 1;
  ReplicaSpec replica;
  double replica_mtbf_s =
      0;                  // mean time to a gang's failure, exponential, while it is up; 0: never
  double recovery_s = 0;  // from the failure until the gang serves again
  double duration_s = 0;  // at least so long, also if all requests have ended
  uint64_t seed = 0;      // of the failures
};

struct SimulationResult {
  std::vector<SimulatedSequence> requests;  // as in the trace; all have ended
  ReplicaCounts counts;                     // of all replicas
  uint64_t failures = 0;
  double duration_s = 0;
  double up_s = 0;             // sum over the replicas
  double request_seconds = 0;  // integral of the number of requests in the cluster
  double availability = 1;     // up_s / (replicas * duration_s)
  double kv_use = 0;           // mean share of the blocks
  double kv_use_max = 0;       // of the replica that had most in use

  double mean_requests() const { return duration_s > 0 ? request_seconds / duration_s : 0; }
};

// Serves a trace with equal replicas, event by event. A request goes to the replica with the
// fewest; a failed replica's go to the others, with the tokens they have, or wait for its return if
// there is no other. Failures are at random, so none is a request's fault; one fails only where
// sixteen gangs in a row did before its next token. The same arguments give the same bits.
// INVALID_ARGUMENT names what is out of bounds: the trace must be ordered by arrival, and every
// request must fit the cache of a replica.
absl::StatusOr<SimulationResult> Simulate(const std::vector<TraceRequest>& trace,
                                          const SimulationOptions& options);

}  // namespace trireme
