#pragma once

#include <google/protobuf/message.h>

#include <optional>
#include <string>

#include "trireme/v1/cluster.grpc.pb.h"

namespace trireme {

// One line of JSON with every field under its proto name, also those that are 0.
std::string ToJsonLine(const google::protobuf::Message& message);

// Cluster.GetStats, within 5 seconds.
grpc::Status GetStats(v1::Cluster::Stub& stub, v1::GetStatsResponse& stats);

// What the server did between two answers of GetStats.
struct StatsDelta {
  uint64_t steps = 0, tokens_prefilled = 0, tokens_generated = 0;
  uint64_t prefix_tokens_asked = 0, prefix_tokens_hit = 0;
  uint64_t preemptions = 0, swaps = 0;
  uint64_t requests_finished = 0, requests_cancelled = 0, requests_refused = 0, requests_failed = 0;
  double step_ms = 0, idle_ms = 0, bubble_ms = 0;

  // nullopt if a counter went back: the coordinator was started anew in between.
  static std::optional<StatsDelta> Between(const v1::GetStatsResponse& before,
                                           const v1::GetStatsResponse& after);
  double HitShare() const;     // of the prefix tokens asked for
  double IdleShare() const;    // of the time with work: steps and the time between them
  double BubbleShare() const;  // of the steps' time
  double MeanStepMs() const;
};

}  // namespace trireme
